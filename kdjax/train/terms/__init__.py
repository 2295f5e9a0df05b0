"""Terms that train modules of their own or remember: one file each, named by the term's ``parts``.

A file has a function ``parts``, from the term's fields to :class:`kdjax.config.Parts`.
"""

"""Terms with trained modules or a memory: one file each, which the term's ``parts`` names.

Each file has a function ``parts``, which takes the term's fields and returns
:class:`kdjax.config.Parts`.
"""

"""Lets modules read their parameters without tracing the initialisers once more.

Whenever a module reads a parameter, Flax compares its shape with that of what the initialiser would
return. If compilation is switched off, JAX reuses nothing between these comparisons, and they take
a quarter of the time of tracing a network. The shapes that tracing passes on come from the same
initialisers, so there is nothing to compare.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def stored_parameters() -> Iterator[None]:
    """Modules that are called inside take each parameter as it is, if there is one."""

    def look(
        call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext
    ) -> Any:
        _take_as_stored(context.module)
        return call(*arguments, **keywords)

    with nn.intercept_methods(look):
        yield


def _take_as_stored(module: nn.Module) -> None:
    if "param" in vars(module):
        return
    param = module.param

    def parameter(
        name: str, init: Any, *arguments: Any, unbox: bool = True, **keywords: Any
    ) -> Any:
        if not module.has_variable("params", name):
            return param(name, init, *arguments, unbox=unbox, **keywords)
        stored: Any = module.get_variable("params", name)
        return param(name, lambda key: stored, unbox=unbox)

    # Modules are frozen, hence object.__setattr__. Flax makes new instances for each call.
    object.__setattr__(module, "param", parameter)

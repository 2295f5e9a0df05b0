"""Finds out which layer uses which entry of the width vector.

Each width carries its name. The author's code passes the width on to a field of a module, where
tracing finds it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from kdjax.widths import WidthVector


class NamedWidth(int):
    """A number of channels that carries the name of its entry in the width vector.

    It behaves as an int in every way, also in comparisons. Arithmetic returns plain ints.
    """

    name: str

    def __new__(cls, value: int, name: str) -> "NamedWidth":
        width = super().__new__(cls, value)
        width.name = name
        return width

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return NamedWidth, (int(self), self.name)


def named(widths: Mapping[str, int]) -> WidthVector:
    """A width vector whose numbers carry their names."""
    return WidthVector({name: NamedWidth(width, name) for name, width in widths.items()})


@contextlib.contextmanager
def collected() -> Iterator[dict[tuple[str, ...], NamedWidth]]:
    """Collects path of a module -> named width among its fields, for all modules called inside.

    If several fields have a named width, ``features`` counts, or else the last one. Compiled
    functions that were called before would hide their modules, so compilation has to be switched
    off inside the context (:func:`jax.disable_jit`).
    """
    met: dict[tuple[str, ...], NamedWidth] = {}

    def look(
        call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        widths = {
            field: width
            for field in getattr(module, "__dataclass_fields__", {})
            for width in _several(getattr(module, field, None))
            if isinstance(width, NamedWidth)
        }
        if widths:
            met[tuple(module.path)] = widths.get("features", list(widths.values())[-1])
        return call(*arguments, **keywords)

    with nn.intercept_methods(look):
        yield met


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)

"""Finds out which layer has which entry of the width vector.

Each width carries its name. The author's code passes it on to the fields of a module, and there
tracing finds it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from kdjax.widths import WidthVector


class NamedWidth(int):
    """A number of channels that knows which entry of the width vector it is.

    It is an int in every way, equality included; arithmetic gives plain ints.
    """

    name: str

    def __new__(cls, value: int, name: str) -> "NamedWidth":
        width = super().__new__(cls, value)
        width.name = name
        return width

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return NamedWidth, (int(self), self.name)


def named(widths: Mapping[str, int]) -> WidthVector:
    """A width vector whose numbers know their names."""
    return WidthVector({name: NamedWidth(width, name) for name, width in widths.items()})


@contextlib.contextmanager
def collected() -> Iterator[dict[tuple[str, ...], NamedWidth]]:
    """Path of a module -> the named width among its fields, of every module called inside.

    Of several, the field ``features`` counts, or else the last. Compiled functions that were
    called before would hide their modules: switch compilation off inside
    (:func:`jax.disable_jit`).
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

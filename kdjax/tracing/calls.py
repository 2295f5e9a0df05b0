"""What an operation of a jaxpr calls, and the module that it belongs to."""

from typing import Any, NamedTuple

# Primitives that call a function -> the parameter that holds it. The operations of the function are
# followed as if they were written in its place.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
}


class Called(NamedTuple):
    """A function that an operation calls: its jaxpr, and the constants in it."""

    jaxpr: Any
    consts: tuple[Any, ...]


def called(equation: Any) -> Called | None:
    """The function that an operation of a jaxpr calls; None if it calls none."""
    parameter = _CALLS.get(equation.primitive.name)
    if parameter is None:
        return None
    inner = equation.params[parameter]
    return Called(getattr(inner, "jaxpr", inner), tuple(getattr(inner, "consts", ())))


def module_path(equation: Any, outer: str) -> str:
    """The path of the module that an operation belongs to, without the network's own class name.

    Args:
      equation: the operation.
      outer: the path of the operation that calls this one's function; empty if there is none.
    """
    parts = str(equation.source_info.name_stack).split("/")
    # Functions and sums of products have names too, such as "silu.2" and "bij,bjk->bik".
    inner = [part for part in parts[1:] if not any(mark in part for mark in (".", "(", "->"))]
    return "/".join(filter(None, (outer, *inner)))

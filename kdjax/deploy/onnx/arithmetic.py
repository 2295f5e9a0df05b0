"""Writes operations on each number by itself."""

from collections.abc import Sequence

import jax
import numpy as np

from kdjax.deploy.onnx.graph import Tensor, UnsupportedError, Value, common_order, common_shape
from kdjax.deploy.onnx.step import Rule, Step


def same(step: Step) -> Sequence[Value]:
    """An operation that changes no number."""
    return list(step.operands)


def elementwise(*operators: str) -> Rule:
    """An operation on each number; each further operator is applied to the result before it."""

    def rule(step: Step) -> Sequence[Value]:
        order = common_order(step.operands)
        name = step.graph.add(operators[0], [step.graph.ordered(v, order) for v in step.operands])
        for operator in operators[1:]:
            name = step.graph.add(operator, [name])
        return [Tensor(name, common_shape(step.operands), order)]

    return rule


def logical(operator: str) -> Rule:
    """An operation on booleans; JAX has the same one for the bits of whole numbers."""

    def rule(step: Step) -> Sequence[Value]:
        if step.results[0].dtype != bool:
            raise UnsupportedError("it combines bits of whole numbers")
        return elementwise(operator)(step)

    return rule


def with_constant(
    operator: str, constant: float, *, first: bool = False, inner: str = "", outer: str = ""
) -> Rule:
    """An operation on a tensor and a constant.

    Near the zeros of functions that are written so, the relative error is that of the sum.

    Args:
      operator: ONNX's operator of two operands.
      constant: one of them.
      first: whether the constant is the first one.
      inner: an operator that is applied to the tensor first; empty: none.
      outer: an operator that is applied to the result; empty: none.
    """

    def rule(step: Step) -> Sequence[Value]:
        values = elementwise(inner)(step) if inner else step.operands
        number = np.asarray(constant, step.results[0].dtype)
        operands = [number, *values] if first else [*values, number]
        return elementwise(operator, *filter(None, [outer]))(step._replace(operands=operands))

    return rule


def maximum(step: Step) -> Sequence[Value]:
    """The maximum with 0 is a ReLU; that with minus infinity, as in a softmax, is nothing."""
    for number, operand in enumerate(step.operands):
        other = step.operands[1 - number]
        if isinstance(operand, Tensor) or isinstance(other, np.ndarray):
            continue
        if np.all(np.isneginf(operand)):
            return [other]
        if not operand.any() and step.dtypes[0] != np.uint8:
            return [other._replace(name=step.graph.add("Relu", [other.name]))]
    return elementwise("Max")(step)


def square(step: Step) -> Sequence[Value]:
    """x * x."""
    return elementwise("Mul")(step._replace(operands=[step.operands[0]] * 2))


def integer_power(step: Step) -> Sequence[Value]:
    """x ** y, y a whole number."""
    if step.params["y"] == 2:
        return square(step)
    return with_constant("Pow", step.params["y"])(step)


def select(step: Step) -> Sequence[Value]:
    """``where``: JAX names the value of False first."""
    if len(step.operands) != 3 or step.params.get("axis") is not None:
        raise UnsupportedError("it chooses from more than two values")
    condition, otherwise, then = step.operands
    if not np.issubdtype(step.dtypes[0], np.bool_):
        raise UnsupportedError("it does not choose by booleans")
    if not np.issubdtype(step.dtypes[1], np.bool_):
        return elementwise("Where")(step._replace(operands=[condition, then, otherwise]))
    # Runtimes have no Where of booleans: (condition and then) or (not condition and otherwise).
    (opposite,) = elementwise("Not")(step._replace(operands=[condition]))
    both = [(condition, then), (opposite, otherwise)]
    parts = [elementwise("And")(step._replace(operands=pair))[0] for pair in both]
    return elementwise("Or")(step._replace(operands=parts))


def clamp(step: Step) -> Sequence[Value]:
    """``clip``: between a lower and an upper bound."""
    low, value, high = step.operands
    numbers = [each for each in (low, high) if isinstance(each, np.ndarray) and each.ndim == 0]
    if isinstance(value, Tensor) and len(numbers) == 2:
        bounds = [step.graph.ordered(number, ()) for number in numbers]
        return [value._replace(name=step.graph.add("Clip", [value.name, *bounds]))]
    (above,) = elementwise("Max")(step._replace(operands=[value, low]))
    return elementwise("Min")(step._replace(operands=[above, high]))


def is_finite(step: Step) -> Sequence[Value]:
    """Neither infinite nor NaN."""
    parts = [elementwise(operator)(step)[0] for operator in ("IsInf", "IsNaN")]
    return elementwise("Or", "Not")(step._replace(operands=parts))


def rounding(step: Step) -> Sequence[Value]:
    """Rounds to whole numbers; halves go to the even one."""
    if step.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UnsupportedError("it rounds halves away from 0")
    return elementwise("Round")(step)


def cast(step: Step) -> Sequence[Value]:
    """A change of dtype."""
    value = step.operands[0]
    # On a constant it is computed, like every operation on single numbers.
    assert isinstance(value, Tensor)
    return [value._replace(name=step.graph.cast(value.name, step.params["new_dtype"]))]

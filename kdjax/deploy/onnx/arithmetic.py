"""Writes operations on each number by itself."""

from collections.abc import Sequence

import jax
import numpy as np

from kdjax.deploy.onnx.graph import Tensor, Value, common_order, common_shape
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
            raise NotImplementedError("it combines bits of whole numbers")
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
        value = step.operands[0]
        assert isinstance(value, Tensor)
        name = step.graph.add(inner, [value.name]) if inner else value.name
        other = step.graph.constant(np.asarray(constant, step.results[0].dtype))
        names = [other, name] if first else [name, other]
        name = step.graph.add(operator, names)
        return [value._replace(name=step.graph.add(outer, [name]) if outer else name)]

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
        raise NotImplementedError("it chooses from more than two values")
    condition, otherwise, then = step.operands
    if not np.issubdtype(step.dtypes[0], np.bool_):
        raise NotImplementedError("it does not choose by booleans")
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
    value = step.operands[0]
    assert isinstance(value, Tensor)
    parts = [step.graph.add(operator, [value.name]) for operator in ("IsInf", "IsNaN")]
    name = step.graph.add("Not", [step.graph.add("Or", parts)])
    return [value._replace(name=name)]


def rounding(step: Step) -> Sequence[Value]:
    """Rounds to whole numbers; halves go to the even one."""
    if step.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise NotImplementedError("it rounds halves away from 0")
    return elementwise("Round")(step)


def cast(step: Step) -> Sequence[Value]:
    """A change of dtype."""
    from onnx import helper

    value = step.operands[0]
    assert isinstance(value, Tensor)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(step.params["new_dtype"]))
    return [value._replace(name=step.graph.add("Cast", [value.name], to=to))]

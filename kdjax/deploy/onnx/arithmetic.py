"""Writes operations on each number by itself."""

from collections.abc import Sequence

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


def with_constant(operator: str, constant: float, *, first: bool = False, after: str = "") -> Rule:
    """An operation on a tensor and a constant.

    Args:
      operator: ONNX's operator of two operands.
      constant: one of them.
      first: whether the constant is the first one.
      after: an operator that is applied to the tensor before.
    """

    def rule(step: Step) -> Sequence[Value]:
        value = step.operands[0]
        assert isinstance(value, Tensor)
        name = step.graph.add(after, [value.name]) if after else value.name
        other = step.graph.constant(np.asarray(constant, step.results[0].dtype))
        names = [other, name] if first else [name, other]
        return [value._replace(name=step.graph.add(operator, names))]

    return rule


def maximum(step: Step) -> Sequence[Value]:
    """The maximum with 0 is a ReLU."""
    for number, operand in enumerate(step.operands):
        other = step.operands[1 - number]
        if isinstance(operand, np.ndarray) and isinstance(other, Tensor) and not operand.any():
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
    if isinstance(condition, np.ndarray) and condition.dtype != bool:
        raise NotImplementedError("it does not choose by booleans")
    return elementwise("Where")(step._replace(operands=[condition, then, otherwise]))


def clamp(step: Step) -> Sequence[Value]:
    """``clip``: between a lower and an upper bound."""
    low, value, high = step.operands
    numbers = [each for each in (low, high) if isinstance(each, np.ndarray) and each.ndim == 0]
    if isinstance(value, Tensor) and len(numbers) == 2:
        bounds = [step.graph.ordered(number, ()) for number in numbers]
        return [value._replace(name=step.graph.add("Clip", [value.name, *bounds]))]
    (above,) = elementwise("Max")(step._replace(operands=[value, low]))
    return elementwise("Min")(step._replace(operands=[above, high]))


def cast(step: Step) -> Sequence[Value]:
    """A change of dtype."""
    from onnx import helper

    value = step.operands[0]
    assert isinstance(value, Tensor)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(step.params["new_dtype"]))
    return [value._replace(name=step.graph.add("Cast", [value.name], to=to))]

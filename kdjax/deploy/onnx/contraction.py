"""Writes operations that combine many numbers: sums, windows, convolutions, products."""

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdjax.deploy.onnx.graph import Tensor, Value, is_known
from kdjax.deploy.onnx.step import Rule, Step


def total(step: Step) -> Sequence[Value]:
    """A sum along some axes; of fractions a mean times the number of terms, often divided by it."""
    terms = [step.shapes[0][axis] for axis in step.params["axes"]]
    dtype = step.results[0].dtype
    if not (np.issubdtype(dtype, np.floating) and all(map(is_known, terms))):
        return reduction("ReduceSum")(step)
    (mean,) = reduction("ReduceMean")(step)
    return [_times(step, mean, math.prod(terms))]


def reduction(operator: str) -> Callable[[Step], list[Tensor]]:
    """One number for all along some axes, by one of ONNX's operators."""

    def rule(step: Step) -> list[Tensor]:
        value, gone = step.tensor, set(step.params["axes"])
        axes = [place for place, axis in enumerate(value.order) if axis in gone]
        if operator == "ReduceSum":  # The only one that takes its axes as an operand.
            name = step.graph.add(operator, [value.name, step.graph.sizes(axes)], keepdims=0)
        else:
            name = step.graph.add(operator, [value.name], axes=axes, keepdims=0)
        left = [axis for axis in range(len(value.shape)) if axis not in gone]
        order = tuple(left.index(axis) for axis in value.order if axis not in gone)
        return [Tensor(name, tuple(step.results[0].shape), order)]

    return rule


def pool(operator: str) -> Rule:
    """The maximum (``MaxPool``) or the sum (``AveragePool``) over windows."""

    def rule(step: Step) -> Sequence[Value]:
        value, params = step.tensor, step.params
        window = params["window_dimensions"]
        dilated = any(size != 1 for size in params["window_dilation"])
        if any(size != 1 for size in params["base_dilation"]) or (
            dilated and operator != "MaxPool"
        ):
            raise NotImplementedError("its windows are dilated")
        moved = [
            size > 1 or stride > 1 or any(border)
            for size, stride, border in zip(
                window, params["window_strides"], params["padding"], strict=True
            )
        ]
        # ONNX pools over all axes but two, batch and channels, which it wants first.
        others = [axis for axis in value.order if not moved[axis]]
        if len(others) < 2:
            raise NotImplementedError("its windows leave no axis for batch or channels")
        spatial = [axis for axis in value.order if axis not in others[:2]]
        attributes: dict[str, Any] = {
            "kernel_shape": [window[axis] for axis in spatial],
            "strides": [params["window_strides"][axis] for axis in spatial],
            "pads": _pads([params["padding"][axis] for axis in spatial]),
        }
        if dilated:
            attributes["dilations"] = [params["window_dilation"][axis] for axis in spatial]
        if operator == "AveragePool":
            attributes["count_include_pad"] = 1
        order = (*others[:2], *spatial)
        name = step.graph.add(operator, [step.graph.ordered(value, order)], **attributes)
        pooled = Tensor(name, tuple(step.results[0].shape), order)
        return [_times(step, pooled, math.prod(window)) if operator == "AveragePool" else pooled]

    return rule


def convolution(step: Step) -> Sequence[Value]:
    """A convolution, grouped, strided or dilated; not a transposed one."""
    params = step.params
    if any(size != 1 for size in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise NotImplementedError("it is a transposed convolution, or groups the batch")
    numbers = params["dimension_numbers"]
    kernel = step.graph.full(step.operands[1], step.shapes[1])
    names = [
        step.graph.ordered(step.tensor, numbers.lhs_spec),
        step.graph.ordered(kernel, numbers.rhs_spec, "kernel"),
    ]
    name = step.graph.add(
        "Conv",
        names,
        group=params["feature_group_count"],
        kernel_shape=[step.shapes[1][axis] for axis in numbers.rhs_spec[2:]],
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
    )
    return [Tensor(name, tuple(step.results[0].shape), tuple(numbers.out_spec))]


def dot(step: Step) -> Sequence[Value]:
    """A product: a dense layer is ``Gemm`` or, on a map, ``MatMul``; any other is ``Einsum``."""
    (left_sum, right_sum), (left_batch, right_batch) = step.params["dimension_numbers"]
    left, right = (
        step.graph.full(value, shape)
        for value, shape in zip(step.operands, step.shapes, strict=True)
    )
    result = tuple(step.results[0].shape)
    order = tuple(range(len(result)))
    if len(right.shape) == 2 and len(left_sum) == 1 and not left_batch:
        (summed,), (rows,) = left_sum, right_sum
        others = [axis for axis in range(len(left.shape)) if axis != summed]
        name = step.graph.ordered(left, (*others, summed))
        if len(others) == 1:
            kernel = step.graph.ordered(right, (1 - rows, rows), "kernel")
            return [Tensor(step.graph.add("Gemm", [name, kernel], transB=1), result, order)]
        kernel = step.graph.ordered(right, (rows, 1 - rows), "kernel")
        return [Tensor(step.graph.add("MatMul", [name, kernel]), result, order)]
    letters = iter(string.ascii_lowercase)
    of_left = [next(letters) for _ in left.shape]
    of_right = [next(letters) for _ in right.shape]
    for mine, its in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True):
        of_right[its] = of_left[mine]
    shared = [of_left[axis] for axis in left_batch]
    gone = {of_left[axis] for axis in (*left_sum, *left_batch)}
    kept = [letter for letter in (*of_left, *of_right) if letter not in gone]
    equation = f"{''.join(of_left)},{''.join(of_right)}->{''.join(shared + kept)}"
    names = [step.graph.ordered(value, range(len(value.shape))) for value in (left, right)]
    return [Tensor(step.graph.add("Einsum", names, equation=equation), result, order)]


def _times(step: Step, value: Tensor, number: int) -> Tensor:
    factor = step.graph.constant(np.asarray(number, step.results[0].dtype))
    return value._replace(name=step.graph.add("Mul", [value.name, factor]))


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """ONNX's padding: all starts, then all ends."""
    if any(size < 0 for border in padding for size in border):
        raise NotImplementedError("its padding is negative")
    return [border[side] for side in (0, 1) for border in padding]

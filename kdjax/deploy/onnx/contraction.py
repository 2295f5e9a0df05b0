"""Writes operations that combine many numbers: sums, windows, convolutions, products."""

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdjax.deploy.onnx.graph import Tensor, UnsupportedError, Value, is_known
from kdjax.deploy.onnx.step import Rule, Step


def total(step: Step) -> Sequence[Value]:
    """A sum along some axes; of floats a mean times the number of terms, often divided by it."""
    terms = [step.shapes[0][axis] for axis in step.params["axes"]]
    dtype = step.results[0].dtype
    if not (np.issubdtype(dtype, np.floating) and all(map(is_known, terms))):
        return reduction("ReduceSum")(step)
    (mean,) = reduction("ReduceMean")(step)
    return [_times(step, mean, math.prod(terms))]


def reduction(operator: str) -> Callable[[Step], list[Tensor]]:
    """One number for all along some axes, by one of ONNX's operators."""

    def rule(step: Step) -> list[Tensor]:
        value, gone = step.whole(), set(step.params["axes"])
        if not gone:
            return [value]
        axes = [place for place, axis in enumerate(value.order) if axis in gone]
        if operator == "ReduceSum":  # The only one that takes its axes as an operand.
            name = step.graph.add(operator, [value.name, step.graph.integers(axes)], keepdims=0)
        elif operator.startswith("Arg"):
            name = step.graph.add(operator, [value.name], axis=axes[0], keepdims=0)
        else:
            name = step.graph.add(operator, [value.name], axes=axes, keepdims=0)
        left = [axis for axis in range(len(value.shape)) if axis not in gone]
        order = tuple(left.index(axis) for axis in value.order if axis not in gone)
        return [Tensor(name, tuple(step.results[0].shape), order)]

    return rule


def by_cast(operator: str) -> Rule:
    """A reduction that runtimes do not have for booleans."""

    def rule(step: Step) -> Sequence[Value]:
        value = step.whole()
        numbers = value._replace(name=step.graph.cast(value.name, np.int32))
        (reduced,) = reduction(operator)(step._replace(operands=[numbers]))
        return [reduced._replace(name=step.graph.cast(reduced.name, np.bool_))]

    return rule


def pool(operator: str) -> Rule:
    """The maximum (``MaxPool``) or the sum (``AveragePool``) over windows."""

    def rule(step: Step) -> Sequence[Value]:
        value, params = step.whole(), step.params
        window, strides = params["window_dimensions"], params["window_strides"]
        average = operator == "AveragePool"
        dilated = any(size != 1 for size in params["window_dilation"])
        if any(size != 1 for size in params["base_dilation"]) or (dilated and average):
            raise UnsupportedError("its windows are dilated")
        if not np.issubdtype(step.dtypes[0], np.floating):
            raise UnsupportedError(f"it pools {step.dtypes[0]}")
        # ONNX pools over all axes but two, batch and channels, which it wants first.
        others = [
            axis
            for axis in value.order
            if window[axis] == strides[axis] == 1 and not any(params["padding"][axis])
        ]
        if len(others) == len(value.order):
            return [value]
        spatial = [axis for axis in value.order if axis not in others[:2]]
        if len(others) < 2 or len(spatial) > 3:
            raise UnsupportedError("its windows leave no axis for batch or channels")
        order = (*others[:2], *spatial)
        name = step.graph.ordered(value, order)
        size = [window[axis] for axis in spatial]
        pads = _pads([params["padding"][axis] for axis in spatial])
        if any(pad >= extent for pad, extent in zip(pads, [*size, *size], strict=True)):
            # Runtimes refuse a border as wide as the window, so it is written by itself.
            border = np.asarray(0 if average else -np.inf, step.dtypes[0])
            half = len(spatial)
            sides = [0, 0, *pads[:half], 0, 0, *pads[half:]]
            numbers = step.graph.integers(sides)
            name = step.graph.add("Pad", [name, numbers, step.graph.constant(border)])
            pads = [0] * len(pads)
        attributes: dict[str, Any] = {
            "kernel_shape": size,
            "strides": [strides[axis] for axis in spatial],
            "pads": pads,
        }
        if dilated:
            attributes["dilations"] = [params["window_dilation"][axis] for axis in spatial]
        if average:
            attributes["count_include_pad"] = 1
        name = step.graph.add(operator, [name], **attributes)
        pooled = Tensor(name, tuple(step.results[0].shape), order)
        return [_times(step, pooled, math.prod(window)) if average else pooled]

    return rule


def convolution(step: Step) -> Sequence[Value]:
    """A convolution, grouped, strided or dilated; not a transposed one."""
    params = step.params
    if any(size != 1 for size in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UnsupportedError("it is a transposed convolution, or groups the batch")
    numbers = params["dimension_numbers"]
    kernel = step.graph.full(step.operands[1], step.shapes[1])
    names = [
        step.graph.ordered(step.whole(), numbers.lhs_spec),
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
    """A product: a dense layer is ``Gemm``, other products of matrices are ``MatMul``."""
    summed, batch = step.params["dimension_numbers"]
    left, right = (
        step.graph.full(value, shape)
        for value, shape in zip(step.operands, step.shapes, strict=True)
    )
    result = tuple(step.results[0].shape)
    rows, columns = (
        [axis for axis in range(len(value.shape)) if axis not in (*summed[side], *batch[side])]
        for side, value in enumerate((left, right))
    )
    order = tuple(range(len(result)))
    if len(summed[0]) == len(columns) == 1 and (len(rows) == 1 or not batch[0]):
        names = [step.graph.ordered(left, (*batch[0], *rows, *summed[0]))]
        if len(result) == 2 and np.issubdtype(step.results[0].dtype, np.floating):
            names.append(step.graph.ordered(right, (*columns, *summed[1]), "kernel"))
            return [Tensor(step.graph.add("Gemm", names, transB=1), result, order)]
        names.append(step.graph.ordered(right, (*batch[1], *summed[1], *columns), "kernel"))
        return [Tensor(step.graph.add("MatMul", names), result, order)]
    letters = iter(string.ascii_lowercase)
    of_left = [next(letters) for _ in left.shape]
    of_right = [next(letters) for _ in right.shape]
    for mine, its in zip((*summed[0], *batch[0]), (*summed[1], *batch[1]), strict=True):
        of_right[its] = of_left[mine]
    kept = [of_left[axis] for axis in (*batch[0], *rows)] + [of_right[axis] for axis in columns]
    equation = f"{''.join(of_left)},{''.join(of_right)}->{''.join(kept)}"
    names = [step.graph.ordered(value, range(len(value.shape))) for value in (left, right)]
    return [Tensor(step.graph.add("Einsum", names, equation=equation), result, order)]


def place_of(operator: str) -> Rule:
    """The place of the largest (``ArgMax``) or smallest number along an axis."""

    def rule(step: Step) -> Sequence[Value]:
        (reduced,) = reduction(operator)(step)
        return [reduced._replace(name=step.graph.cast(reduced.name, step.params["index_dtype"]))]

    return rule


def _times(step: Step, value: Tensor, number: int) -> Tensor:
    factor = step.graph.constant(np.asarray(number, step.results[0].dtype))
    return value._replace(name=step.graph.add("Mul", [value.name, factor]))


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """ONNX's padding: all starts, then all ends."""
    if any(size < 0 for border in padding for size in border):
        raise UnsupportedError("its padding is negative")
    return [border[side] for side in (0, 1) for border in padding]

"""Convolutions and dense layers: what they read and write, and what each connection costs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax.tracing.description import Operation
from kdjax.tracing.equation import Equation
from kdjax.tracing.record import Found, Record
from kdjax.tracing.values import Label, Path, Value, along, flat_axis, rigid

# The arguments that ``lax.conv_general_dilated`` needs to repeat a convolution.
_CONVOLUTION = (
    *("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers"),
    "feature_group_count",
)


def convolution(equation: Equation) -> list[Value]:
    """``conv_general_dilated``; a grouped one loses whole groups, or the same channel of each."""
    (x, kernel), record, params = equation.values, equation.record, equation.params
    numbers, shape = params["dimension_numbers"], equation.shapes[0]
    (_, feature, *places), (out, into, *taps) = numbers.lhs_spec, numbers.rhs_spec
    path = kernel_of(record, kernel)
    groups = params["feature_group_count"]
    if params["batch_group_count"] != 1:
        raise ValueError("it groups the batch")
    atoms, bare = _axis(x, feature)
    record.read(atoms, bare)
    inputs, outputs = _axis(kernel, into)[0], _axis(kernel, out)[0]
    for axis in taps:
        record.pin(_axis(kernel, axis)[0], "")
    if path is None or not x.computed:
        for part in (atoms, inputs, outputs):
            record.pin(part, "a convolution's kernel is computed, or written into the code")
    grouping = record.grouping(path, groups)
    if grouping != "whole":
        each = np.tile(inputs[:, :1], (groups, 1))
        record.tie(each, atoms, "a layer reads places that are no channels")
        record.tie(inputs[:, :1], inputs, "")
    if grouping == "across":
        rows = outputs[:, 0].reshape(groups, -1)
        record.tie(rows[:1], rows, "")
    if grouping == "whole":
        record.pin(inputs, "")
        for part in (atoms, outputs):
            rows = part.reshape(groups, -1)
            record.tie(atoms.reshape(groups, -1)[:, :1], rows, "a grouped convolution reads them")
    record.tie(outputs[:, :1], outputs, "")
    spread = math.prod(params["lhs_dilation"]) > 1
    # Axes before the places are folded into the batch, for example windows.
    images = shape[numbers.out_spec[0]]
    out_places = images * math.prod(shape[axis] for axis in numbers.out_spec[2:])
    read_places = images * math.prod(x.shape[axis] for axis in places)
    layer = Found(
        path,
        record.place,
        taps=math.prod(kernel.shape[axis] for axis in taps),
        # A transposed convolution multiplies each number that it reads by each tap.
        positions=read_places if spread else out_places,
        outputs=out_places,
        groups=groups,
        fan_in=kernel.shape[into],
        loses_whole_groups=grouping == "whole",
        reads=atoms[:, 0],
        writes=outputs[:, 0],
        operation=Operation(
            x.shape,
            kernel.shape,
            feature,
            into,
            out,
            {name: value for name, value in params.items() if name in _CONVOLUTION},
        ),
    )
    labels = [label for label in rigid(shape) if label.axes[0] in numbers.out_spec[2:]]
    labels.append(along(numbers.out_spec[1], len(shape), outputs[:, 0], bare=True))
    return [Value(shape, tuple(labels), layer=record.add_layer(layer))]


def dot(equation: Equation) -> list[Value]:
    """``dot_general``: a dense layer if one side is a parameter."""
    contract, batch = equation.params["dimension_numbers"]
    (left, right), record, shape = equation.values, equation.record, equation.shapes[0]
    sides = [
        _Side(value, tuple(contract[side]), tuple(batch[side]))
        for side, value in enumerate(equation.values)
    ]
    starts = (len(batch[0]), len(batch[0]) + len(sides[0].free))
    weights = [side for side in sides if side.value.variables and not side.value.fixed]
    computed = [side for side in sides if side.value.computed]
    if len(weights) == 1 and len(computed) == 1:
        return _dense(record, computed[0], weights[0], sides, starts, shape)
    for first, second in zip(*contract, strict=True):
        one, other = _axis(left, first)[0], _axis(right, second)[0]
        if computed:
            why = "two computed arrays are multiplied over them"
            if len(computed) == 1:
                why = "they are multiplied by an array in the code"
            record.pin(one, why)
            record.pin(other, why)
        else:
            record.tie(one[:, :1], np.concatenate([one, other], 1), "an array in the code is read")
    for side in sides:
        for axis in side.batch:
            record.pin(_axis(side.value, axis)[0], "they are a batch axis of a product")
    labels = _carried(sides, starts, shape, bare=False)
    inputs = [side.value for side in sides if not side.value.fixed]
    layer = max((value.layer for value in inputs if value.layer is not None), default=None)
    if len(computed) == 2:
        layer = record.add_layer(_product(record, sides))
    variables = frozenset().union(*(value.variables for value in inputs))
    return [
        Value(shape, labels, frozenset() if computed else variables, layer=layer, fixed=not inputs)
    ]


class _Side:
    """One operand: the axes that are summed over, the shared batch axes, and its own free axes."""

    def __init__(self, value: Value, contract: tuple[int, ...], batch: tuple[int, ...]) -> None:
        self.value, self.contract, self.batch = value, contract, batch
        taken = {*contract, *batch}
        self.free = tuple(axis for axis in range(len(value.shape)) if axis not in taken)

    def size(self, axes: Sequence[int]) -> int:
        return math.prod(self.value.shape[axis] for axis in axes)


def _dense(
    record: Record,
    x: _Side,
    weight: _Side,
    sides: Sequence[_Side],
    starts: tuple[int, int],
    shape: tuple[int, ...],
) -> list[Value]:
    into, out = _widest(record, weight, weight.contract), _widest(record, weight, weight.free)
    for first, second in zip(x.contract, weight.contract, strict=True):
        (atoms, bare), (inputs, _) = _axis(x.value, first), _axis(weight.value, second)
        record.read(atoms, bare)
        record.tie(inputs[:, :1], atoms, "a layer reads places that are no channels")
        record.tie(inputs[:, :1], inputs, "")
    for axis in weight.batch:
        record.pin(_axis(weight.value, axis)[0], "each of them has weights of its own")
    for axis in x.batch:
        record.pin(_axis(x.value, axis)[0], "each of them has weights of its own")
    kept = [axis for axis in (*weight.contract, *weight.free) if axis not in (into, out)]
    places = x.size(x.free) * x.size(x.batch)
    reads = _axis(weight.value, into)[0] if into is not None else np.zeros((1, 1), int)
    writes = _axis(weight.value, out)[0] if out is not None else np.zeros((1, 1), int)
    inner = weight.size([axis for axis in weight.contract if axis != into])
    outer = weight.size([axis for axis in weight.free if axis != out])
    layer = Found(
        kernel_of(record, weight.value),
        record.place,
        taps=weight.size(kept),
        positions=places,
        outputs=places * outer,
        groups=1,
        fan_in=len(reads),
        loses_whole_groups=False,
        reads=reads[:, 0],
        writes=writes[:, 0],
        operation=Operation(
            (places, len(reads) * inner), (len(reads) * inner, len(writes) * outer), 1, 0, 1
        ),
    )
    labels = _carried(sides, starts, shape, bare=weight)
    return [Value(shape, labels, layer=record.add_layer(layer))]


def _widest(record: Record, side: _Side, axes: Sequence[int]) -> int | None:
    """The longest of several axes, which can be thinned. The others, such as heads, are pinned."""
    if not axes:
        return None
    chosen = max(axes, key=lambda axis: side.value.shape[axis])
    for axis in axes:
        if axis != chosen:
            record.pin(_axis(side.value, axis)[0], "a layer has several axes of channels")
    return chosen


def _product(record: Record, sides: Sequence[_Side]) -> Found:
    """A layer without parameters; its cost follows one axis of channels; others have to stay."""
    labelled = [
        (place, axis, _axis(side.value, axis)[0])
        for place, side in enumerate(sides)
        for axis in side.free
        if side.value.label(axis)
    ]
    thinned = labelled[-1:] if labelled and labelled[-1][2].shape[1] == 1 else []
    for _, _, atoms in labelled[: len(labelled) - len(thinned)]:
        record.pin(atoms, "a product of two computed arrays has several axes of channels")
    place, axis, writes = thinned[0] if thinned else (1, None, np.zeros((1, 1), int))
    written, other = sides[place], sides[1 - place]
    positions = other.size(other.batch) * other.size(other.free)
    rest = written.size([free for free in written.free if free != axis])
    return Found(
        None,
        record.place,
        taps=rest,
        positions=positions,
        outputs=positions * rest,
        groups=1,
        fan_in=other.size(other.contract),
        loses_whole_groups=False,
        reads=np.zeros(other.size(other.contract), int),
        writes=writes[:, 0],
    )


def _carried(
    sides: Sequence[_Side], starts: tuple[int, int], shape: tuple[int, ...], bare: Any
) -> tuple[Label, ...]:
    """The labels of the result, taken from the operands; batch axes cannot shrink."""
    labels = []
    for axis, pair in enumerate(zip(sides[0].batch, sides[1].batch, strict=True)):
        if any(side.value.label(own) for side, own in zip(sides, pair, strict=True)):
            labels.append(along(axis, len(shape), np.zeros(shape[axis], int)))
    for side, start in zip(sides, starts, strict=True):
        for label in side.value.labels:
            places = [start + side.free.index(axis) for axis in label.axes if axis in side.free]
            if len(places) < len(label.axes):
                labels += [
                    along(place, len(shape), np.zeros(shape[place], int)) for place in places
                ]
                continue
            moved = label.placed(places, len(shape))
            labels.append(moved.with_bare(True) if side is bare else moved)
    return tuple(labels)


def _axis(value: Value, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and bareness ``[size, others]`` of an axis; rigid and not bare if it has no label."""
    label, size = value.label(axis), value.shape[axis]
    if label is None:
        return np.zeros((size, 1), int), np.zeros((size, 1), bool)
    return flat_axis(label, axis, size)


def kernel_of(record: Record, value: Value) -> Path | None:
    """The parameter that a kernel is computed from; if several (a gain, a mask), the largest."""
    paths = [path for path in value.variables if path[0] == "params"]
    return max(paths, key=lambda path: (record.sizes[path], path), default=None)

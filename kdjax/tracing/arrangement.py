"""Rules for operations that only move numbers, such as a reshape: atoms move in the same way."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from kdjax.tracing.equation import Equation
from kdjax.tracing.record import Record
from kdjax.tracing.values import Label, Value, along, rigid

Shape = tuple[int, ...]


def transpose(equation: Equation) -> list[Value]:
    """``transpose``: labels move with their axes."""
    (value,), order = equation.values, tuple(equation.params["permutation"])
    labels = [
        label.map(lambda part: part.transpose(order), [order.index(axis) for axis in label.axes])
        for label in value.labels
    ]
    return [value.moved([value.shape[axis] for axis in order], labels)]


def reverse(equation: Equation) -> list[Value]:
    """``rev``: reverses the order of the channels."""
    (value,), axes = equation.values, tuple(equation.params["dimensions"])
    labels = [label.map(lambda part: np.flip(part, axes)) for label in value.labels]
    return [value.moved(value.shape, labels)]


def cut(equation: Equation) -> list[Value]:
    """``slice`` with constant bounds."""
    (value,), params = equation.values, equation.params
    strides = params["strides"] or (1,) * len(value.shape)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [_index(value, [np.arange(*bound) for bound in bounds])]


def split(equation: Equation) -> list[Value]:
    """``split``: cuts one axis into parts."""
    (value,), axis = equation.values, equation.params["axis"]
    ends = np.cumsum(equation.params["sizes"])
    parts = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        indices = [np.arange(size) for size in value.shape]
        indices[axis] = np.arange(start, end)
        parts.append(_index(value, indices))
    return parts


def _index(value: Value, indices: Sequence[np.ndarray]) -> Value:
    """Takes the positions ``indices`` of every axis."""

    def take(label: Label) -> Label:
        def pick(part: np.ndarray) -> np.ndarray:
            for axis in label.axes:
                part = np.take(part, indices[axis], axis)
            return part

        return label.map(pick)

    return value.moved([len(index) for index in indices], [take(label) for label in value.labels])


def squeeze(equation: Equation) -> list[Value]:
    """``squeeze``: removes axes of length 1."""
    (value,) = equation.values
    gone = {axis % len(value.shape) for axis in equation.params["dimensions"]}
    return [without(value, gone, value.labels)]


def without(value: Value, gone: set[int], labels: Sequence[Label], *, multiple=True) -> Value:
    """The value without some of its axes; a label that loses all its axes is removed too.

    Args:
      value: the operand.
      gone: the axes to remove.
      labels: labels to keep, with the axes of the operand.
      multiple: as in :meth:`Value.moved`.
    """
    left = [axis for axis in range(len(value.shape)) if axis not in gone]
    kept = [
        label.map(
            lambda part: part.reshape([part.shape[axis] for axis in left]),
            [left.index(axis) for axis in label.axes if axis in left],
        )
        for label in labels
        if set(label.axes) - gone
    ]
    return value.moved([value.shape[axis] for axis in left], kept, multiple=multiple)


def broadcast(equation: Equation) -> list[Value]:
    """``broadcast_in_dim``: adds axes. A single channel that becomes many has to stay."""
    value, shape = equation.values[0], equation.params["shape"]
    places = equation.params["broadcast_dimensions"]
    labels = []
    for label in value.labels:
        if any(value.shape[axis] != shape[places[axis]] for axis in label.axes):
            equation.record.pin(label.atoms, "one channel is repeated")
            continue
        labels.append(label.placed([places[axis] for axis in label.axes], len(shape)))
    return [value.moved(shape, labels)]


def concatenate(equation: Equation) -> list[Value]:
    """``concatenate``: the operands' channels follow each other."""
    return [_concatenate(equation.record, equation.values, equation.params["dimension"])]


def stack(equation: Equation) -> list[Value]:
    """``stack``: adds an axis with one place for each operand."""
    axis = equation.params["axis"]
    shape = list(equation.values[0].shape)
    shape.insert(axis, 1)
    places = tuple(place for place in range(len(shape)) if place != axis)
    params = {"shape": tuple(shape), "broadcast_dimensions": places}
    parts = [broadcast(equation._replace(values=[v], params=params))[0] for v in equation.values]
    return [_concatenate(equation.record, parts, axis)]


def _concatenate(record: Record, values: Sequence[Value], axis: int) -> Value:
    """Joins values along an axis; a label that differs between them extends along this axis."""
    ndim = len(values[0].shape)
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    labels, along_it = [], {axis}
    for other in range(ndim):
        own = [label for value in values if (label := value.label(other))]
        if other == axis or not own:
            continue
        if all(label.rigid for label in own):
            labels.append(along(other, ndim, np.zeros(shape[other], np.int64)))
        elif axis not in own[0].axes and all(same(own[0], label) for label in own):
            labels += [own[0]] if own[0].axes[0] == other else []
        else:
            along_it |= {other}.union(*(label.axes for label in own))
    parts = [_filled(record, value, sorted(along_it), axis) for value in values]
    label = Label(
        tuple(sorted(along_it)),
        np.concatenate([part.atoms for part in parts], axis),
        np.concatenate([part.bare for part in parts], axis),
    )
    inputs = [value for value in values if not value.fixed]
    computed = [value for value in inputs if value.computed]
    return Value(
        tuple(shape),
        (*labels, label),
        frozenset() if computed else frozenset().union(*(value.variables for value in inputs)),
        layer=max((v.layer for v in computed if v.layer is not None), default=None),
        fixed=not inputs,
        zero=all(value.zero for value in values),
    )


def same(first: Label, second: Label) -> bool:
    """Whether two labels hold the same channels at the same places."""
    return (
        first.axes == second.axes
        and np.array_equal(first.atoms, second.atoms)
        and np.array_equal(first.bare, second.bare)
    )


def _filled(record: Record, value: Value, axes: Sequence[int], axis: int) -> Label:
    """A label over all of ``axes``, for one part of a concatenation."""
    own = [label for label in value.labels if set(label.axes) & set(axes)]
    shape = [value.shape[place] if place in axes else 1 for place in range(len(value.shape))]
    open_labels = [label for label in own if not label.rigid]
    if len(open_labels) > 1:
        for label in open_labels:
            record.pin(label.atoms, "a concatenation mixes two channel axes")
        open_labels = []
    if open_labels:
        whole = open_labels[0]
        return Label(
            tuple(axes), np.broadcast_to(whole.atoms, shape), np.broadcast_to(whole.bare, shape)
        )
    # Channels of zeros can be removed together with the channels that they are added to. Channels
    # of other repeated numbers stay.
    count = value.shape[axis]
    atoms = record.fresh(count) if value.zero else np.zeros(count, np.int64)
    label = along(axis, len(shape), atoms)
    return Label(
        tuple(axes), np.broadcast_to(label.atoms, shape), np.broadcast_to(label.bare, shape)
    )


def pad(equation: Equation) -> list[Value]:
    """``pad``: zeros that are added to a channel axis become channels that no layer writes."""
    value, filling = equation.values
    labels, shape = list(value.labels), list(value.shape)
    for axis, (low, high, inner) in enumerate(equation.params["padding_config"]):
        size = shape[axis]
        places = _padded(size, low, high, inner)
        shape[axis] = len(places)
        if not (low or high or inner):
            continue
        label = next((label for label in labels if axis in label.axes), None)
        if label is None or label.rigid:
            labels = [other for other in labels if other is not label]
            labels.append(along(axis, len(shape), np.zeros(len(places), np.int64)))
            continue
        atoms = np.take(label.atoms, np.maximum(places, 0), axis)
        bare = np.take(label.bare, np.maximum(places, 0), axis)
        new = np.moveaxis(atoms, axis, 0)[places < 0]
        fresh = equation.record.fresh(new.size).reshape(new.shape)
        if not filling.zero:
            equation.record.pin(fresh, "channels are padded with another number than 0")
        np.moveaxis(atoms, axis, 0)[places < 0] = fresh
        np.moveaxis(bare, axis, 0)[places < 0] = False
        labels[labels.index(label)] = Label(label.axes, atoms, bare)
    return [value.moved(shape, labels, multiple=False)]


def _padded(size: int, low: int, high: int, inner: int) -> np.ndarray:
    """For each position after padding, the position that it comes from; -1 for padding."""
    places = np.full(size + max(size - 1, 0) * inner, -1)
    places[:: inner + 1] = np.arange(size)
    places = np.pad(places, (max(low, 0), max(high, 0)), constant_values=-1)
    return places[max(-low, 0) : len(places) - max(-high, 0)]


def reshape(equation: Equation) -> list[Value]:
    """``reshape``: joins and splits axes; the numbers keep their order."""
    (value,), shape = equation.values, tuple(equation.params["new_sizes"])
    record = equation.record
    labels: list[Label] = []
    for old_axes, new_axes in _blocks(value.shape, shape):
        own = [label for label in value.labels if set(label.axes) & set(old_axes)]
        for label in own:
            if not set(label.axes) <= set(old_axes):
                record.pin(label.atoms, "a reshape cuts a channel axis that an earlier one made")
                own = [other for other in own if other is not label]
                labels += [part for part in rigid(shape) if part.axes[0] in new_axes]
        open_labels = [label for label in own if not label.rigid]
        if len(open_labels) > 1:
            for label in open_labels:
                record.pin(label.atoms, "a reshape mixes two channel axes")
            open_labels = []
        if open_labels and new_axes:
            labels.append(_reshaped(open_labels[0], value.shape, shape, old_axes, new_axes))
        elif own:
            labels += [part for part in rigid(shape) if part.axes[0] in new_axes]
    distinct = {label.axes: label for label in labels}
    return [value.moved(shape, list(distinct.values()))]


def _blocks(old: Shape, new: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Pairs of the shortest runs of old and new axes that hold equally many numbers."""
    start_old = start_new = 0
    while start_old < len(old) or start_new < len(new):
        end_old, end_new = start_old + 1, start_new + 1
        while (left := math.prod(old[start_old:end_old])) != (
            right := math.prod(new[start_new:end_new])
        ):
            if (left < right and end_old < len(old)) or end_new >= len(new):
                end_old += 1
            else:
                end_new += 1
        # Axes of length 1 at the end belong to the last run.
        if all(size == 1 for size in old[end_old:]) and all(size == 1 for size in new[end_new:]):
            end_old, end_new = len(old), len(new)
        yield (
            list(range(start_old, min(end_old, len(old)))),
            list(range(start_new, min(end_new, len(new)))),
        )
        start_old, start_new = end_old, end_new


def _reshaped(
    label: Label, old: Shape, new: Shape, old_axes: list[int], new_axes: list[int]
) -> Label:
    whole = [old[axis] if axis in old_axes else 1 for axis in range(len(old))]
    target = [new[axis] if axis in new_axes else 1 for axis in range(len(new))]
    changed = label.map(lambda part: np.broadcast_to(part, whole).reshape(target))
    axes = [axis for axis in new_axes if new[axis] > 1] or new_axes[-1:]
    # An axis along which all atoms are equal holds no channels, but at least one axis is kept.
    for axis in tuple(axes):
        if len(axes) > 1 and (changed.atoms == np.take(changed.atoms, [0], axis)).all():
            changed = _first(changed, axis)
            axes.remove(axis)
    return Label(tuple(axes), changed.atoms, changed.bare)


def _first(label: Label, axis: int) -> Label:
    return label.map(lambda part: np.take(part, [0], axis))

"""Writes operations that move, choose or repeat numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.deploy.onnx.graph import Graph, Tensor, UnsupportedError, Value, common_order, is_known
from kdjax.deploy.onnx.step import Step


def transpose(step: Step) -> Sequence[Value]:
    """Only the meaning of the stored axes changes; nothing is written."""
    value, permutation = step.operands[0], step.params["permutation"]
    if isinstance(value, np.ndarray):
        return [value.transpose(permutation)]
    return [_permuted(value, permutation)]


def broadcast(step: Step) -> Sequence[Value]:
    """Adds axes; those that repeat numbers are stored with size 1."""
    places = step.params["broadcast_dimensions"]
    shape: list[Any] = [1] * len(step.results[0].shape)
    for place, size in zip(places, step.shapes[0], strict=True):
        shape[place] = size
    return [_regrouped(step.graph, step.operands[0], step.shapes[0], shape)]


def reshape(step: Step) -> Sequence[Value]:
    """The same numbers in another shape."""
    if step.params.get("dimensions") is not None:
        raise UnsupportedError("it permutes axes")
    old, new = step.shapes[0], step.results[0].shape
    if [size for size in old if size != 1] == [size for size in new if size != 1]:
        return [_regrouped(step.graph, step.operands[0], old, new)]
    name = step.graph.ordered(step.whole(), range(len(old)))
    return [Tensor(step.graph.reshaped(name, new), tuple(new), tuple(range(len(new))))]


def squeeze(step: Step) -> Sequence[Value]:
    """Removes axes of size 1."""
    old, new = step.shapes[0], step.results[0].shape
    return [_regrouped(step.graph, step.operands[0], old, new)]


def concatenate(step: Step) -> Sequence[Value]:
    """Values one after another along an axis."""
    values = [
        step.graph.full(value, shape)
        for value, shape in zip(step.operands, step.shapes, strict=True)
    ]
    order = common_order(values)
    names = [step.graph.ordered(value, order) for value in values]
    name = step.graph.add("Concat", names, axis=order.index(step.params["dimension"]))
    return [Tensor(name, tuple(step.results[0].shape), order)]


def stack(step: Step) -> Sequence[Value]:
    """Values one after another along a new axis."""
    axis, shape = step.params["axis"], list(step.shapes[0])
    shape.insert(axis, 1)
    values = [
        _regrouped(step.graph, value, old, shape)
        for value, old in zip(step.operands, step.shapes, strict=True)
    ]
    shapes = [tuple(shape)] * len(values)
    return concatenate(step._replace(operands=values, shapes=shapes, params={"dimension": axis}))


def pad(step: Step) -> Sequence[Value]:
    """A border of one number."""
    value, config = step.whole(), step.params["padding_config"]
    if any(min(each) < 0 or each[2] for each in config):
        raise UnsupportedError("it cuts a border off, or pads between numbers")
    sides = [config[axis][side] for side in (0, 1) for axis in value.order]
    names = [value.name, step.graph.integers(sides), step.graph.ordered(step.operands[1], ())]
    name = step.graph.add("Pad", names)
    return [Tensor(name, tuple(step.results[0].shape), value.order)]


def tile(step: Step) -> Sequence[Value]:
    """Repeats a whole array along its axes."""
    value, counts = step.whole(), step.params["reps"]
    repeats = step.graph.integers([counts[axis] for axis in value.order])
    name = step.graph.add("Tile", [value.name, repeats])
    return [Tensor(name, tuple(step.results[0].shape), value.order)]


def cut(step: Step) -> Sequence[Value]:
    """A range of each axis."""
    value, params = step.whole(), step.params
    steps = params["strides"] or [1] * len(value.shape)
    ranges = {
        axis: each
        for axis, each in enumerate(
            zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        )
        if each != (0, value.shape[axis], 1)
    }
    _check_batch_stays(value, ranges)
    return [_taken(step.graph, value, {axis: range(*each) for axis, each in ranges.items()})]


def split(step: Step) -> Sequence[Value]:
    """Parts of one axis, each a slice."""
    value, axis = step.whole(), step.params["axis"]
    _check_batch_stays(value, [axis])
    ends = np.cumsum(step.params["sizes"]).tolist()
    return [
        _taken(step.graph, value, {axis: range(start, end)})
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def reverse(step: Step) -> Sequence[Value]:
    """Some axes back to front."""
    value, axes = step.whole(), step.params["dimensions"]
    _check_batch_stays(value, axes)
    return [_taken(step.graph, value, {axis: range(value.shape[axis])[::-1] for axis in axes})]


def gather(step: Step) -> Sequence[Value]:
    """Constant places of some axes: indexing such as ``x[:, ::2, 3]`` or ``jnp.take``."""
    value, indices, params = step.whole(), step.operands[1], step.params
    if not isinstance(indices, np.ndarray):
        raise UnsupportedError("its indices are computed from the images")
    unknown = [axis for axis, size in enumerate(value.shape) if not is_known(size)]
    if any(params["slice_sizes"][axis] != value.shape[axis] for axis in unknown):
        raise UnsupportedError("it cuts the batch")
    # JAX itself says what it takes: it is given the numbers 0, 1, 2, ..., for a batch of two.
    shape, sizes = (
        tuple(size if is_known(size) else 2 for size in each)
        for each in (value.shape, params["slice_sizes"])
    )
    numbers = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    settings = {**params, "slice_sizes": sizes, "fill_value": -1}
    taken = np.asarray(
        jax.lax.gather_p.bind(jnp.asarray(numbers), jnp.asarray(indices), **settings)
    )
    if taken.min() < 0:
        raise UnsupportedError("it takes numbers that are not there")
    places: dict[int, list[int]] = {}
    sources: dict[int, int] = {}  # The result's axis -> the operand's.
    for axis, found in enumerate(np.unravel_index(taken, shape)):
        along = [k for k in range(taken.ndim) if np.any(np.diff(found, axis=k))]
        if len(along) > 1 or (along and along[0] in sources):
            raise UnsupportedError("it takes something else than some places of each axis")
        if along:
            sources[along[0]] = axis
        if axis not in unknown:
            others = tuple(slice(None) if k in along else 0 for k in range(taken.ndim))
            places[axis] = np.atleast_1d(found[others]).tolist()
    permutation = [sources[k] for k in sorted(sources)]
    permutation += [axis for axis in range(len(shape)) if axis not in permutation]
    some = _permuted(_taken(step.graph, value, places), permutation)
    # An axis without a source repeats one place, which is stored once.
    stored = [size if k in sources else 1 for k, size in enumerate(step.results[0].shape)]
    return [_regrouped(step.graph, some, some.shape, stored)]


def _regrouped(graph: Graph, value: Value, old: Sequence[Any], new: Sequence[Any]) -> Value:
    """Returns a value with axes of size 1 added or removed.

    Args:
      graph: where a reshape is written if one is needed.
      value: the value; along an axis it may have size 1 and another one in ``old``.
      old: JAX's shape of it.
      new: JAX's new shape, with the same sizes other than 1, in the same order.
    """
    moves = dict(
        zip(
            [axis for axis, size in enumerate(old) if size != 1],
            [axis for axis, size in enumerate(new) if size != 1],
            strict=True,
        )
    )
    shape: list[Any] = [1] * len(new)
    for axis, place in moves.items():
        shape[place] = value.shape[axis]
    if isinstance(value, np.ndarray):
        return value.reshape(shape)
    # Added axes come last: [batch, channels] becomes ONNX's [batch, channels, 1, 1].
    order = [moves[axis] for axis in value.order if axis in moves]
    order += [axis for axis in range(len(new)) if axis not in order]
    found = Tensor(value.name, tuple(shape), tuple(order))
    if found.stored_shape == value.stored_shape:
        return found
    return found._replace(name=graph.reshaped(value.name, found.stored_shape))


def _taken(graph: Graph, value: Tensor, places: Mapping[int, Sequence[int]]) -> Tensor:
    """Writes a choice of places of each axis that is named."""
    shape = list(value.shape)
    slices: list[tuple[int, int, int, int]] = []
    for axis, chosen in places.items():
        first = chosen[0] if chosen else 0
        step = chosen[1] - first if len(chosen) > 1 else 1
        if first == 0 and step == 1 and len(chosen) == shape[axis]:
            continue
        stored = value.order.index(axis)
        if step and list(chosen) == list(range(first, first + step * len(chosen), step)):
            end = first + step * len(chosen)
            # A negative end would count from the axis's end.
            slices.append((first, end if end >= 0 else -shape[axis] - 1, stored, step))
        else:
            numbers = graph.integers(chosen)
            value = value._replace(name=graph.add("Gather", [value.name, numbers], axis=stored))
        shape[axis] = len(chosen)
    name = value.name
    if slices:
        starts, ends, axes, steps = (graph.integers(each) for each in zip(*slices, strict=True))
        name = graph.add("Slice", [name, starts, ends, axes, steps])
    return Tensor(name, tuple(shape), value.order)


def _check_batch_stays(value: Tensor, axes: Iterable[int]) -> None:
    """Raises UnsupportedError if one of the axes has a symbolic size."""
    if not all(is_known(value.shape[axis]) for axis in axes):
        raise UnsupportedError("it cuts the batch")


def _permuted(value: Tensor, permutation: Sequence[int]) -> Tensor:
    """Another order of JAX's axes; those in the graph stay as they are."""
    permutation = list(permutation)
    shape = tuple(value.shape[axis] for axis in permutation)
    return Tensor(value.name, shape, tuple(permutation.index(axis) for axis in value.order))

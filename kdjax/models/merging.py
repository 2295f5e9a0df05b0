"""Several students as one network of their own architecture, as wide as they are together.

In every group of channels the students lie side by side. Kernels are 0 between the channels of
different students, and the logits of all students form one row. Tracing the wide network finds
where each student's numbers lie in it. So merging works for every family whose modules pass their
widths on to layers, and for networks that users wrote.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import tracing
from kdjax.models.agreement import check_agreement
from kdjax.models.execution import Branches, Execution, Mode, of_all
from kdjax.models.normalization import BATCH_STATS
from kdjax.widths import WidthVector

if TYPE_CHECKING:
    from kdjax.models.architecture import Architecture, Outputs

Path = tuple[str, ...]
Places = tuple[np.ndarray, ...]  # For each axis of an array, positions in increasing order.


def run_branches(
    architecture: "Architecture",
    student_widths: Sequence[Mapping[str, int]],
    variables: Sequence[Mapping[str, Any]],
    inputs: Any,
    mode: Mode,
    execution: Execution,
    image_shape: tuple[int, int, int],
) -> Branches:
    """Runs the branches of all students; see :meth:`Architecture.run_branches`.

    Args:
      architecture: the architecture of all students.
      student_widths: width vector of each student.
      variables: ``params`` and ``batch_stats`` of each student's branch.
      inputs: the stem's map, or a list of one for each student.
      mode: training or evaluation, dtype, mask and axis name.
      execution: which students run as one network.
      image_shape: (height, width, channels) of what the stem reads.

    Raises:
      ValueError: if students of this architecture cannot run as one network; the message says why.
    """
    if architecture.executions == ("sequential",):
        raise ValueError(f"{architecture.name} has no other execution than sequential")
    vectors = [WidthVector(widths) for widths in student_widths]
    shared = not isinstance(inputs, (list, tuple))
    runs: dict[tuple[int, ...], Branches] = {}
    for group in execution.groups(len(vectors)):
        merged = merge(architecture, tuple(vectors[place] for place in group), image_shape, shared)
        x = inputs
        if not merged.shared:
            maps = [inputs if shared else inputs[place] for place in group]
            x = jnp.concatenate(maps, axis=-1)
        runs[group] = merged.run([variables[place] for place in group], x, mode)
    return of_all(runs)


@dataclasses.dataclass(frozen=True, eq=False)
class Merged:
    """Students as one network.

    Attributes:
      wide: the network's architecture. Widths are sums over the students, except shared ones; its
        classes are those of all students.
      traced: the description of that network by tracing.
      alive: ``[students, units]`` bool, which units of channels belong to each student.
      shared: whether the network reads one map that all students share; else it reads a map for
        each student, side by side.
    """

    wide: "Architecture"
    traced: tracing.Traced
    alive: np.ndarray
    shared: bool

    def run(self, variables: Sequence[Mapping[str, Any]], x: chex.Array, mode: Mode) -> Branches:
        """Runs the students' branches.

        Args:
          variables: the variables of each student's branch.
          x: the map that the branches read.
          mode: training or evaluation, dtype, mask and axis name.
        """
        flat = [flax.traverse_util.flatten_dict(dict(tree)) for tree in variables]
        places = {
            path: [self.places(path, own[path].shape, student) for student, own in enumerate(flat)]
            for path in flat[0]
        }
        joined = flax.traverse_util.unflatten_dict(
            {
                path: self._joined(path, [own[path] for own in flat], owned)
                for path, owned in places.items()
            }
        )
        branch = self.wide.branch(self.wide.widths, dtype=mode.dtype, bn_axis_name=mode.axis_name)
        outputs, updated = branch.apply(joined, x, mode.train, mode.mask, mutable=[BATCH_STATS])
        new = flax.traverse_util.flatten_dict(updated.get(BATCH_STATS, {}) if mode.train else {})
        statistics = [
            flax.traverse_util.unflatten_dict(
                {
                    path: _part(leaf, places[BATCH_STATS, *path][student][0])
                    for path, leaf in new.items()
                }
            )
            for student in range(len(flat))
        ]
        joint = tuple(
            x if self._in_order(units) else None
            for x, units in zip(outputs.features, self.traced.maps, strict=True)
        )
        own = [self._outputs(outputs, student) for student in range(len(flat))]
        return Branches(own, statistics, joint)

    def places(self, path: Path, shape: tuple[int, ...], student: int) -> Places:
        """The positions of a student's array in the wide network's array, for each axis.

        Args:
          path: the path of a variable of the branch, its collection first.
          shape: the shape of the student's array.
          student: the student's place among the merged ones, from 0.
        """
        found = []
        for units, size in zip(self._units(path), shape, strict=True):
            index = np.flatnonzero(self.alive[student][units])
            if len(index) != size and not units.any() and len(units) == size * len(self.alive):
                index = np.arange(student * size, (student + 1) * size)  # Each has its own logits.
            if len(index) != size:
                raise ValueError(
                    f"{self.wide.name} cannot run several students as one network: "
                    f"{'/'.join(path[1:])} has {len(index)} channels for a student's {size}"
                )
            found.append(index)
        return tuple(found)

    def _joined(self, path: Path, arrays: Sequence[chex.Array], places: Sequence[Places]) -> Any:
        try:
            return _join(arrays, places, tuple(len(axis) for axis in self._units(path)))
        except ValueError as error:
            raise ValueError(
                f"{self.wide.name} cannot run several students as one network: "
                f"{'/'.join(path[1:])}: {error}"
            ) from None

    def _outputs(self, outputs: "Outputs", student: int) -> "Outputs":
        size = self.wide.num_classes // len(self.alive)
        return outputs._replace(
            logits=outputs.logits[:, student * size : (student + 1) * size],
            features=tuple(
                _part(x, np.flatnonzero(self.alive[student][units]))
                for x, units in zip(outputs.features, self.traced.maps, strict=True)
            ),
        )

    def _in_order(self, units: np.ndarray) -> bool:
        """Whether the students' channels of a map lie side by side, one student after another."""
        found = np.concatenate([np.flatnonzero(alive[units]) for alive in self.alive])
        return np.array_equal(found, np.arange(len(units)))

    @property
    def disjoint(self) -> bool:
        """Whether no number in the branches' variables belongs to two students."""
        return all(
            (axes and not axes[-1].any())  # Each student has its own logits.
            or any((np.sum(self.alive[:, axis], axis=0) == 1).all() for axis in axes)
            for path, axes in self.traced.leaves.items()
            if path[1] == "branch"
        )

    def _units(self, path: Path) -> tuple[np.ndarray, ...]:
        return self.traced.leaves[path[0], "branch", *path[1:]]


@functools.lru_cache(maxsize=64)
def merge(
    architecture: "Architecture",
    students: tuple[WidthVector, ...],
    image_shape: tuple[int, int, int],
    shared: bool,
) -> Merged:
    """Merges students into one network; the result is cached.

    Args:
      architecture: the architecture of all students.
      students: their widths.
      image_shape: (height, width, channels) of an image.
      shared: whether all students read one stem's map; else each reads its own.

    Raises:
      ValueError: if the network computes with all its classes at once, as a softmax does, or if a
        network that is not part of kdjax computes other numbers when merged.
    """
    merged = _merge(architecture, students, image_shape, architecture.shared if shared else ())
    if shared and not merged.disjoint:
        # A branch that begins with a normalisation or a depthwise convolution has parameters for
        # each channel of the stem. Each student has its own ones, so it gets a copy of the map.
        merged = _merge(architecture, students, image_shape, ())
    if type(architecture).__module__.split(".")[0] != "kdjax":  # kdjax's own have tests.
        check_agreement(
            architecture, students, merged.run, image_shape, shared=shared, one_map=merged.shared
        )
    return merged


def _merge(
    architecture: "Architecture",
    students: tuple[WidthVector, ...],
    image_shape: tuple[int, int, int],
    common: tuple[str, ...],
) -> Merged:
    """Merges students; ``common`` names the widths that all students share."""
    total = {
        name: students[0][name] if name in common else sum(widths[name] for widths in students)
        for name in architecture.widths
    }
    wide = dataclasses.replace(
        architecture,
        widths=WidthVector(total),
        num_classes=architecture.num_classes * len(students),
    )
    traced = tracing.trace_architecture(wide, image_shape)
    for layer in traced.layers:
        reason = traced.fixed.get(layer.name, tracing.OUTPUTS)
        if not layer.writes.any() and reason != tracing.OUTPUTS:
            raise ValueError(
                f"{architecture.name} cannot run several students as one network, since the "
                f"channels of {layer.name} would be mixed: {reason}"
            )
    alive = np.ones((len(students), traced.units), bool)
    own = [name for name in total if name not in common]
    for name in own:
        alive[:, traced.widths[name]] = False
    alive[:, 0] = True
    for name in own:
        ends = np.cumsum([widths[name] for widths in students])
        for student, end in enumerate(ends):
            alive[student, traced.widths[name][end - students[student][name] : end]] = True
    return Merged(wide, traced, alive, bool(common))


def _join(arrays: Sequence[chex.Array], places: Sequence[Places], shape: tuple[int, ...]) -> Any:
    """One array of ``shape`` with the students' arrays at their places and 0 elsewhere.

    There is an axis on which every position belongs to exactly one student. On this axis the arrays
    are cut into runs of neighbours, which are put side by side. On the other axes each array is
    padded with zeros.
    """
    if len(arrays) == 1:
        return arrays[0]
    axes = [axis for axis, size in enumerate(shape) if _partition(places, axis, size)]
    if not axes:
        raise ValueError(f"the students' arrays overlap in an array of shape {shape}")
    # Take the axis with the most runs: on other axes a student's numbers must be neighbours.
    axis = max(axes, key=lambda axis: sum(len(_runs(own[axis])) for own in places))
    pieces: dict[int, chex.Array] = {}
    for array, own in zip(arrays, places, strict=True):
        widths = [(0, 0)] * len(shape)
        for other, index in enumerate(own):
            if other != axis:
                if len(_runs(index)) > 1:
                    raise ValueError(f"a student's array has parts on two axes of {shape}")
                widths[other] = (int(index[0]), shape[other] - int(index[-1]) - 1)
        filled = jnp.pad(array, widths) if any(map(any, widths)) else array
        for start, run in _runs(own[axis]):
            piece = jax.lax.slice_in_dim(filled, start, start + len(run), axis=axis)
            pieces[int(run[0])] = piece
    return jnp.concatenate([pieces[start] for start in sorted(pieces)], axis=axis)


def _partition(places: Sequence[Places], axis: int, size: int) -> bool:
    together = np.concatenate([own[axis] for own in places])
    return np.array_equal(np.sort(together), np.arange(size))


def _part(x: chex.Array, index: np.ndarray) -> chex.Array:
    """The channels ``index`` of the last axis."""
    if len(index) == x.shape[-1]:
        return x
    parts = [x[..., run[0] : run[-1] + 1] for _, run in _runs(index)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def _runs(index: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Runs of neighbours in a list of places, each as (start in the list, the run)."""
    parts = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    starts = itertools.accumulate((len(part) for part in parts), initial=0)
    return list(zip(starts, parts, strict=False))

"""The values of the tracer, which say what channels the positions of an array's axes hold.

Every position of every axis of every variable gets its own number, an *atom*. A value carries
its atoms in arrays with the same axes. When an operation slices, joins, reshapes or transposes the
value, NumPy does the same to these arrays.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Path = tuple[str, ...]

RIGID = 0  # Atom of positions that can never be removed: those of arrays written into the code.


@dataclasses.dataclass(frozen=True, eq=False)
class Label:
    """The channels along some axes of a value.

    Attributes:
      axes: the axes that hold the channels, increasing; several if a reshape split a channel axis.
      atoms: int array with as many axes as the value, of length 1 on all axes not in ``axes``.
      bare: bool array like ``atoms``, true where a layer wrote the channel and no scale has
        multiplied it since.
    """

    axes: tuple[int, ...]
    atoms: np.ndarray
    bare: np.ndarray

    def map(
        self, function: Callable[[np.ndarray], np.ndarray], axes: Sequence[int] | None = None
    ) -> "Label":
        """The label with ``function`` applied to both arrays and, if given, other axes."""
        chosen = self.axes if axes is None else tuple(sorted(axes))
        return Label(chosen, function(self.atoms), function(self.bare))

    def placed(self, places: Sequence[int], ndim: int) -> "Label":
        """The label for a value of ``ndim`` axes, in which its axes become ``places`` in order."""
        shape = [1] * ndim
        for axis, place in zip(self.axes, places, strict=True):
            shape[place] = self.atoms.shape[axis]
        return self.map(lambda part: part.reshape(shape), places)

    def with_bare(self, bare: np.ndarray | bool) -> "Label":
        return dataclasses.replace(self, bare=np.broadcast_to(bare, self.atoms.shape))

    @property
    def rigid(self) -> bool:
        return not self.atoms.any()


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array inside the network, without its numbers.

    Attributes:
      shape: shape of the array.
      labels: no two labels share an axis. An axis without a label is the batch, a place in the
        image, or a repetition.
      variables: paths of the variables that the array is computed from, if it depends on nothing
        else but constants; empty if it depends on the image.
      factors: those of the variables that the array is a multiple of.
      layer: number of the layer that wrote the array; the last one if there are several.
      fixed: whether the array depends only on numbers in the code.
      zero: whether the array is 0 everywhere.
    """

    shape: tuple[int, ...]
    labels: tuple[Label, ...] = ()
    variables: frozenset[Path] = frozenset()
    factors: frozenset[Path] = frozenset()
    layer: int | None = None
    fixed: bool = False
    zero: bool = False

    @property
    def computed(self) -> bool:
        """Whether it depends on the image."""
        return not self.fixed and not self.variables

    def label(self, axis: int) -> Label | None:
        """The label that covers an axis, or None."""
        return next((label for label in self.labels if axis in label.axes), None)

    def moved(
        self, shape: Sequence[int], labels: Sequence[Label], *, multiple: bool = True
    ) -> "Value":
        """The result of an operation on this value alone: its numbers moved, or functions of them.

        Args:
          shape: shape of the result.
          labels: labels of the result.
          multiple: whether each number of the result is a number of this value, multiplied by a
            constant at most. Then the result is still a multiple of the value's factors, and 0 if
            this value is 0.
        """
        return dataclasses.replace(
            self,
            shape=tuple(shape),
            labels=tuple(labels),
            factors=self.factors if multiple else frozenset(),
            zero=self.zero and multiple,
        )


def along(axis: int, ndim: int, atoms: np.ndarray, bare: bool = False) -> Label:
    """A label for one axis.

    Args:
      axis: the axis of the array.
      ndim: number of axes of the array.
      atoms: ``[size]`` the atoms along the axis.
      bare: whether the channels are bare: no scale has multiplied them.
    """
    shape = [1] * ndim
    shape[axis] = -1
    return Label((axis,), atoms.reshape(shape), np.full(atoms.shape, bare).reshape(shape))


def constant(array: np.ndarray) -> Value:
    """The value of an array in the code: its axes cannot shrink unless all numbers are equal."""
    array = np.asarray(array)
    uniform = array.size > 0 and bool((array == array.flat[0]).all())
    labels = () if uniform else rigid(array.shape)
    return Value(array.shape, labels, fixed=True, zero=uniform and not array.flat[0])


def rigid(shape: Sequence[int]) -> tuple[Label, ...]:
    """Labels that say that no axis of an array can shrink."""
    return tuple(
        along(axis, len(shape), np.full(size, RIGID)) for axis, size in enumerate(shape) if size > 1
    )


def flat_axis(label: Label, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and bareness ``[size, others]`` along one axis of a label, its other axes flattened.

    Args:
      label: the label that covers the axis.
      axis: the axis of the array.
      size: size of the axis.
    """
    parts = (np.moveaxis(part, axis, 0) for part in (label.atoms, label.bare))
    atoms, bare = (
        np.broadcast_to(part, (size, *part.shape[1:])).reshape(size, -1) for part in parts
    )
    return atoms, bare


def joined(labels: Sequence[Label]) -> Label:
    """One label over the axes of several, with the atoms of the first; bare where any is bare.

    The caller ties the atoms of the other labels to those of the first.
    """
    axes = tuple(sorted({axis for label in labels for axis in label.axes}))
    shape = np.broadcast_shapes(*(label.atoms.shape for label in labels))
    atoms = np.broadcast_to(labels[0].atoms, shape)
    bare = np.zeros(shape, bool)
    for label in labels:
        bare = bare | label.bare
    return Label(axes, atoms, bare)

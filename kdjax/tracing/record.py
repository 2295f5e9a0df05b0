"""The record that tracing fills on its way through a network."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from kdjax.tracing.description import Operation
from kdjax.tracing.values import RIGID, Path

Grouping = Literal["none", "whole", "across"]


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """One convolution or dense layer as tracing found it, with atoms in place of units.

    Attributes:
      kernel: path of its kernel; None for a product of two computed arrays.
      module: path of the module that it is in.
      taps, positions, outputs, groups, fan_in, loses_whole_groups, operation: as in
        :class:`kdjax.tracing.Layer`.
      reads, writes: ``[channels]`` atoms.
    """

    kernel: Path | None
    module: str
    taps: int
    positions: int
    outputs: int
    groups: int
    fan_in: int
    loses_whole_groups: bool
    reads: np.ndarray
    writes: np.ndarray
    operation: Operation | None = None


class Record:
    """The atoms of a trace, what ties and pins them, the layers, and the scales that control them.

    Attributes:
      layers: in order of execution.
      owners: variable -> number of the layer whose output it was first combined with.
      scales: for each multiplication of bare channels by a parameter, the path of the parameter and
        the atoms that it controls.
      place: the module that is being traced, for messages.
      sizes: path of each variable -> how many numbers it holds.
    """

    def __init__(
        self,
        sizes: Mapping[Path, int],
        grouping: Mapping[Path, Grouping],
        keeps_cardinality: bool,
    ) -> None:
        self.sizes = sizes
        self._grouping, self._keeps_cardinality = grouping, keeps_cardinality
        self._atoms = 1  # 0 is RIGID.
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._pins: list[tuple[np.ndarray, str]] = []
        self._bare: list[tuple[np.ndarray, str]] = []
        self.layers: list[Found] = []
        self.owners: dict[Path, int] = {}
        self.scales: list[tuple[Path, np.ndarray]] = []
        self.place = ""

    def grouping(self, kernel: Path | None, groups: int) -> Grouping:
        """What a convolution loses: channels, whole groups, or the same channel of each group.

        Args:
          kernel: path of the kernel.
          groups: number of groups of the convolution.
        """
        if kernel is not None and kernel in self._grouping:
            return self._grouping[kernel]
        if groups == 1:
            return "none"
        return "across" if self._keeps_cardinality else "whole"

    def fresh(self, count: int) -> np.ndarray:
        """Returns ``count`` new atoms."""
        self._atoms += count
        return np.arange(self._atoms - count, self._atoms)

    def tie(self, first: np.ndarray, second: np.ndarray, why: str) -> None:
        """Makes channels live and die together. Channels tied to a rigid one never die.

        Args:
          first: atoms.
          second: atoms at the same places, or atoms that broadcast to the same shape.
          why: the reason to show for channels that are tied to a rigid one.
        """
        first, second = (part.ravel() for part in np.broadcast_arrays(first, second))
        rigid = (first == RIGID) | (second == RIGID)
        if rigid.any():
            self.pin(np.maximum(first, second)[rigid], why)
            first, second = first[~rigid], second[~rigid]
        self._ties.append((first, second))

    def pin(self, atoms: np.ndarray, why: str) -> None:
        """Makes channels stay for ever; ``why`` is a text for the user and may be empty."""
        atoms = np.unique(atoms[atoms != RIGID])
        if atoms.size:
            text = f"{why} in {self.place}" if why and self.place else why
            self._pins.append((atoms, text))

    def read(self, atoms: np.ndarray, bare: np.ndarray) -> None:
        """Records that a layer reads these channels; no scale controls the bare ones."""
        if bare.any():
            self._bare.append((np.unique(np.broadcast_to(atoms, bare.shape)[bare]), self.place))

    def add_layer(self, layer: Found) -> int:
        """Adds a layer and returns its number."""
        self.layers.append(layer)
        return len(self.layers) - 1

    def add_scale(self, scale: Path, atoms: np.ndarray) -> None:
        """Records the first parameter vector that multiplies channels after they were written."""
        self.scales.append((scale, np.unique(atoms)))

    def roots(self) -> np.ndarray:
        """``[atoms]``: the same number for atoms that live and die together."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        none = np.zeros(0, np.int64)
        first = np.concatenate([none, *(tie[0] for tie in self._ties)])
        second = np.concatenate([none, *(tie[1] for tie in self._ties)])
        shape = (self._atoms, self._atoms)
        graph = coo_array((np.ones(len(first), bool), (first, second)), shape=shape)
        return connected_components(graph, directed=False)[1]

    def pins(self) -> Iterator[tuple[np.ndarray, str]]:
        yield from self._pins

    def uncontrolled(self) -> Iterator[tuple[np.ndarray, str]]:
        """Atoms that a layer read before a scale multiplied them, and the layer's module."""
        yield from self._bare

"""What tracing finds out about a network: channels, groups of them, layers, and every axis."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.tracing.values import Path

OUTPUTS = "they are the network's outputs"  # Why a classifier's channels stay, and no other's.


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that lie on the same axes, equally often; only their positions differ.

    The channels of a *unit* live and die together. They have the same number in all layers that a
    sum, a product, a normalisation or a grouped convolution ties. In a grouped convolution a unit
    is one whole group of channels, or the same channel of each group.

    Attributes:
      name: the first member's; with ``:2``, ``:3`` where several groups share their first member.
      members: names of the widths that count its channels, in order of execution.
      start, stop: its units' numbers.
      unit_size: channels of the first member in each unit.
      scales: parameter vectors that decide about a unit: it lives while one of them is not 0.
      held: why its units cannot be thinned by their scales; empty if they can.
    """

    name: str
    members: tuple[str, ...]
    start: int
    stop: int
    unit_size: int
    scales: tuple[Path, ...]
    held: str = ""

    @property
    def units(self) -> int:
        return self.stop - self.start

    @property
    def channels(self) -> int:
        """The first member's width, as far as it belongs to this group."""
        return self.units * self.unit_size

    def has(self, units: np.ndarray) -> np.ndarray:
        """Bool, of the shape of ``units``: which of them are this group's."""
        return (units >= self.start) & (units < self.stop)

    def places(self, units: np.ndarray) -> np.ndarray:
        """``[units, channels]``: where each unit of the group is on an axis of these units."""
        order = np.argsort(units, kind="stable")
        return order[self.has(units[order])].reshape(self.units, -1)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution or dense layer as an array operation, to be run by itself.

    Attributes:
      x, kernel: shapes of its operands, for one image.
      feature: axis of ``x`` with the channels that are read.
      into, out: axes of ``kernel`` with the channels read (of one group) and written.
      params: of ``lax.conv_general_dilated``; empty for a product of ``[rows, in]`` and
        ``[in, out]``.
    """

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    feature: int
    into: int
    out: int
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or dense layer.

    Attributes:
      path: of the module that holds its kernel, or, of a product of computed arrays, of the module
        it is in.
      kernel: path of its kernel in the variables; None for a product of computed arrays.
      name: of the width it writes.
      taps: places in the kernel, such as 9 for 3 x 3; each is one product of a channel read with a
        channel written.
      positions: times that the kernel is applied to one image: places in the map that is written,
        for a transposed convolution in the map that is read.
      outputs: places in the map that is written.
      groups: of a grouped convolution; else 1.
      fan_in: inputs of an output channel at full width.
      grouped: whether it loses whole groups, so that its fan-in stays the same.
      reads, writes: ``[channels]`` unit of each channel, in order; 0 where it stays.
      operation: what it computes; None for a product of computed arrays.
    """

    path: Path
    kernel: Path | None
    name: str
    taps: int
    positions: int
    outputs: int
    groups: int
    fan_in: int
    grouped: bool
    reads: np.ndarray
    writes: np.ndarray
    operation: Operation | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A network as its own forward pass describes it.

    Attributes:
      groups: in order of execution; those that cannot be thinned say why.
      layers: in order of execution.
      leaves: path of each variable, its collection first -> for each axis the unit of each
        position, 0 where it stays.
      owners: path of each parameter -> number of the layer in which it counts.
      widths: name of each width -> ``[channels]`` unit of each; names are the width vector's
        where the author declared them, else the path of the layer that writes the channels.
      fixed: name -> why its channels stay, of all widths with channels that cannot be thinned.
      maps: ``[channels]`` unit of each channel of each map after a block.
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    leaves: Mapping[Path, tuple[np.ndarray, ...]]
    owners: Mapping[Path, int]
    widths: Mapping[str, np.ndarray]
    fixed: Mapping[str, str]
    maps: tuple[np.ndarray, ...] = ()

    @property
    def units(self) -> int:
        """How many units there are, with unit 0: all channels that stay."""
        return self.groups[-1].stop if self.groups else 1

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that a search can thin."""
        return tuple(group for group in self.groups if not group.held)

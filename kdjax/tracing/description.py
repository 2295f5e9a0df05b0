"""The results of tracing a network: groups of channels, layers, and the channels on each axis."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.tracing.values import Path

# The reason why the channels of a classifier stay. No other channels have this reason.
OUTPUTS = "they are the network's outputs"


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that are on the same axes, equally often; only their positions differ.

    The channels of a *unit* live and die together. They have the same index in all layers that a
    sum, a product, a normalisation or a grouped convolution ties. In a grouped convolution a unit
    is one whole group of channels, or the same channel of each group.

    Attributes:
      name: name of the first member, with ``:2``, ``:3`` added if several groups have the same
        first member.
      members: names of the widths that count its channels, in order of execution.
      start, stop: its units have the numbers from ``start`` to ``stop - 1``.
      unit_size: number of channels of the first member in each unit.
      scales: paths of the parameter vectors that control a unit: the unit lives while its
        number in one of them is not 0.
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
        """The number of channels of the first member that belong to this group."""
        return self.units * self.unit_size

    def has(self, units: np.ndarray) -> np.ndarray:
        """Which of ``units`` belong to this group: a bool array of the same shape."""
        return (units >= self.start) & (units < self.stop)

    def places(self, units: np.ndarray) -> np.ndarray:
        """``[units, channels]``: positions of each unit of the group on an axis with ``units``."""
        order = np.argsort(units, kind="stable")
        return order[self.has(units[order])].reshape(self.units, -1)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution or dense layer as an array operation that can run by itself.

    Attributes:
      x, kernel: shapes of its operands, for one image.
      feature: axis of ``x`` with the channels that are read.
      into, out: axes of ``kernel`` with the channels that are read (of one group) and written.
      params: arguments of ``lax.conv_general_dilated``; empty for a product of ``[rows, in]`` and
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
      path: path of the module that holds its kernel. For a product of two computed arrays it is the
        path of the module that computes the product.
      kernel: path of its kernel in the variables; None for a product of computed arrays.
      name: name of the width that it writes.
      taps: number of places in the kernel, such as 9 for 3 x 3. For each pair of a channel read and
        a channel written, each place is one product.
      positions: how often the kernel is applied to one image: the number of places in the map that
        is written, or for a transposed convolution in the map that is read.
      outputs: number of places in the map that is written.
      groups: number of groups of a grouped convolution; else 1.
      fan_in: number of inputs of an output channel at full width.
      loses_whole_groups: whether thinning removes whole groups, so that the fan-in stays the same.
      reads, writes: ``[channels]`` unit of each channel that is read or written, in order; 0 for
        channels that stay.
      operation: the array operation of the layer; None for a product of computed arrays.
    """

    path: Path
    kernel: Path | None
    name: str
    taps: int
    positions: int
    outputs: int
    groups: int
    fan_in: int
    loses_whole_groups: bool
    reads: np.ndarray
    writes: np.ndarray
    operation: Operation | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """The description of a network, found by following its forward pass.

    Attributes:
      groups: in order of execution; those that cannot be thinned say why.
      layers: in order of execution.
      leaves: path of each variable, its collection first -> for each axis the unit of each
        position, 0 for positions that stay.
      owners: path of each parameter -> number of the layer in which it counts.
      widths: name of each width -> ``[channels]`` unit of each channel. The name is the one in the
        width vector if the author declared it, else the path of the layer that writes the channels.
      fixed: name of each width with channels that cannot be thinned -> why they stay.
      maps: for each map after a block, ``[channels]`` unit of each channel.
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
        """The number of units, including unit 0, which holds all channels that stay."""
        return self.groups[-1].stop if self.groups else 1

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that a search can thin."""
        return tuple(group for group in self.groups if not group.held)

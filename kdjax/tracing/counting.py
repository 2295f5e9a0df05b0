"""The cost of a traced network, whole or thinned, and the coefficients that a penalty needs.

Every cost is a sum of terms: a constant, times the number of living channels that are read, times
the number of those that are written. Each kernel is one term of the parameters. Each layer is one
term of the multiply-accumulates. A bias, a normalisation or a table of positions reads the
constant 1.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kdjax import costs
from kdjax.tracing.description import Layer, Traced


def everything(traced: Traced) -> np.ndarray:
    """``[units]`` bool: all channels alive."""
    return np.ones(traced.units, bool)


def count(traced: Traced, alive: np.ndarray | None = None) -> costs.Cost:
    """Parameters, multiply-accumulates and activations of the network with these units.

    Args:
      traced: the description of the full network.
      alive: ``[units]`` bool, true for unit 0 (the channels that stay); None for all units.
    """
    alive = everything(traced) if alive is None else alive
    params = sum(
        int(np.prod([alive[axis].sum() for axis in axes], dtype=np.int64))
        for path, axes in traced.leaves.items()
        if path[0] == "params"
    )
    macs = activations = 0
    for layer in traced.layers:
        written = int(alive[layer.writes].sum())
        read = layer.fan_in
        if not layer.loses_whole_groups:
            read = int(alive[layer.reads].sum()) // layer.groups
        macs += layer.taps * layer.positions * read * written
        activations += layer.outputs * written
    return costs.Cost(params, macs, activations)


def layer_costs(traced: Traced) -> tuple[costs.Cost, ...]:
    """The cost of each layer; a parameter other than a kernel counts where it is first used."""
    params = np.zeros(len(traced.layers), np.int64)
    for path, number in traced.owners.items():
        params[number] += np.prod([len(axis) for axis in traced.leaves[path]], dtype=np.int64)
    return tuple(
        costs.Cost(
            int(own),
            layer.taps * layer.positions * layer.fan_in * len(layer.writes),
            layer.outputs * len(layer.writes),
        )
        for own, layer in zip(params, traced.layers, strict=True)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """The number of channels that each term has on one side, as a sparse matrix.

    Attributes:
      fixed: ``[terms]`` number of channels that stay.
      term, group: ``[entries]`` row and column of each entry.
      channels: ``[entries]`` channels of the term for each living unit of the group.
    """

    fixed: np.ndarray
    term: np.ndarray
    group: np.ndarray
    channels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Terms:
    """The terms of one resource: ``constant * reads * writes``, summed.

    Attributes:
      constant: ``[terms]``.
      reads, writes: the two sides.
      sources: what a layer that loses whole groups reads. Each of its outputs reads a fixed number
        of channels, so its cost does not depend on them. Its penalty still acts on the channels
        that it reads, as strongly as on those that it writes. Fixed channels of this side have no
        effect.
      layer: ``[terms]`` number of the layer in which each term counts.
    """

    constant: np.ndarray
    reads: Side
    writes: Side
    sources: Side
    layer: np.ndarray


def terms(traced: Traced, resource: str) -> Terms:
    """The terms of ``params`` or ``macs``.

    Args:
      traced: the description of the full network.
      resource: ``params`` or ``macs``.

    Raises:
      ValueError: if the resource is neither.
    """
    if resource not in ("params", "macs"):
        raise ValueError(f"resource is {resource!r}: expected 'params' or 'macs'")
    return _terms(traced, list(_layer_rows(traced) if resource == "macs" else _leaf_rows(traced)))


def _terms(traced: Traced, rows: list["_Row"]) -> Terms:
    sources = [
        row.layer.reads if row.layer is not None and row.layer.loses_whole_groups else _ONE[:0]
        for row in rows
    ]
    # The cost of a layer that loses whole groups can also be written as a constant times the
    # channels that it reads.
    shares = [
        len(row.reads) * len(row.writes) / max(1, len(source))
        for row, source in zip(rows, sources, strict=True)
    ]
    ones = [1.0] * len(rows)
    return Terms(
        np.array([row.constant for row in rows], float),
        _side(traced, [row.reads for row in rows], ones),
        _side(traced, [row.writes for row in rows], ones),
        _side(traced, sources, shares),
        np.array([row.number for row in rows]),
    )


def layer_terms(traced: Traced, coefficients: Sequence[Sequence[float]]) -> Terms:
    """The terms of a cost that is a sum of four parts in each layer, such as its time.

    Args:
      traced: the description of the full network.
      coefficients: four costs for each layer: a fixed cost, the cost per channel that it reads, per
        channel that it writes, and per pair of a channel read and a channel written.

    Raises:
      ValueError: if there are not four numbers for each layer.
    """
    if [len(four) for four in coefficients] != [4] * len(traced.layers):
        raise ValueError(f"expected four numbers for each of {len(traced.layers)} layers")
    rows = [
        _Row(constant, reads, writes, number)
        for number, (layer, four) in enumerate(zip(traced.layers, coefficients, strict=True))
        for constant, reads, writes in zip(
            four,
            (_ONE, layer.reads, _ONE, layer.reads),
            (_ONE, _ONE, layer.writes, layer.writes),
            strict=True,
        )
        if constant
    ]
    return _terms(traced, rows)


class _Row(NamedTuple):
    """One term, before all terms are put into arrays; ``layer`` is set for kernels and layers."""

    constant: float
    reads: np.ndarray
    writes: np.ndarray
    number: int
    layer: Layer | None = None


_ONE = np.zeros(1, np.int64)  # Unit 0, as the side of a term that has one channel, which stays.


def _layer_rows(traced: Traced) -> Iterator[_Row]:
    for number, layer in enumerate(traced.layers):
        reads = np.repeat(_ONE, layer.fan_in) if layer.loses_whole_groups else layer.reads
        constant = layer.taps * layer.positions
        # Each output reads one of several groups, and all groups lose the same channels.
        own = 1 if layer.loses_whole_groups else layer.groups
        yield _Row(constant / own, reads, layer.writes, number, layer)


def _leaf_rows(traced: Traced) -> Iterator[_Row]:
    kernels = {layer.kernel: layer for layer in traced.layers}
    for path, axes in traced.leaves.items():
        if path[0] != "params":
            continue
        loose = [axis for axis in axes if axis.any()]
        reads, writes = [_ONE, _ONE, *loose][-2:]
        stays = [len(axis) for axis in axes if not axis.any()]
        constant = int(np.prod(stays, dtype=np.int64))
        yield _Row(constant, reads, writes, traced.owners[path], kernels.get(path))


def _side(traced: Traced, sides: list[np.ndarray], scale: Sequence[float]) -> Side:
    ends = np.array([group.stop for group in traced.groups], np.int64)
    fixed = np.zeros(len(sides))
    term, group, channels = [], [], []
    for number, units in enumerate(sides):
        loose = units[units > 0]
        fixed[number] = len(units) - len(loose)
        counts = np.bincount(np.searchsorted(ends, loose, side="right"), minlength=len(ends))
        for index in np.flatnonzero(counts):
            term.append(number)
            group.append(index)
            channels.append(counts[index] / traced.groups[index].units * scale[number])
    return Side(
        fixed, np.array(term, np.int64), np.array(group, np.int64), np.array(channels, float)
    )

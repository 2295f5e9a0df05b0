"""Which normalisation scales decide whether a channel lives: groups, ties, and their flat layout.

Every layer that writes a channel group and is batch-normalised contributes one scale per channel;
an addition ties the contributors. The search works on all of them at once, as one matrix
``[contributors, units]``: a unit is a channel, or the channels that a grouped convolution keeps
together; missing contributors are 0. Gathering and scattering are one indexing operation each.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from kdjax.costs import Layer
from kdjax.models import Architecture

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that live and die as one: a channel group, or several that an addition ties.

    Attributes:
      name: the first member's.
      members: names of the width vector's groups.
      channels: the width of each.
      unit: how many neighbouring channels a grouped convolution keeps together; else 1.
      writers: paths of the normalised layers whose scales decide.
    """

    name: str
    members: tuple[str, ...]
    channels: int
    unit: int
    writers: tuple[Path, ...]

    @property
    def units(self) -> int:
        return self.channels // self.unit


def find_groups(
    layers: Sequence[Layer], ties: Sequence[Sequence[str]] = ()
) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The groups that a search can thin, in order of execution, and the names of those it cannot.

    A group cannot be thinned if a layer writes it without a normalisation: nothing says which of
    its channels matter.

    Raises:
      ValueError: if no group can be thinned, or a grouped convolution reads one group and writes
        another, whose units could not be kept together.
    """
    leader = {member: tie[0] for tie in ties for member in tie}
    members: dict[str, list[str]] = {}
    writers: dict[str, list[Layer]] = {}
    units: dict[str, int] = {}
    for layer in layers:
        if layer.groups > 1:
            written_name = leader.get(str(layer.out_group), str(layer.out_group))
            if leader.get(str(layer.in_group), str(layer.in_group)) != written_name:
                raise ValueError(
                    f"{'/'.join(layer.path)} is a grouped convolution from {layer.in_group} to "
                    f"{layer.out_group}: both must be one group to be thinned together"
                )
            unit = layer.in_channels // layer.groups
            units[written_name] = max(units.get(written_name, 1), unit)
        if layer.out_group is not None:
            name = leader.get(layer.out_group, layer.out_group)
            names = members.setdefault(name, [])
            if layer.out_group not in names:
                names.append(layer.out_group)
            writers.setdefault(name, []).append(layer)
    groups, fixed = [], []
    for name, written in writers.items():
        if all(layer.norm for layer in written):
            paths = tuple(layer.path for layer in written)
            channels = written[0].out_channels
            groups.append(Group(name, tuple(members[name]), channels, units.get(name, 1), paths))
        else:
            fixed += members[name]
    if not groups:
        raise ValueError("the network has no normalisation scales: there is nothing to penalise")
    return tuple(groups), tuple(fixed)


@dataclasses.dataclass(frozen=True)
class Channels:
    """The layout of all scales of a network that a search can thin.

    Attributes:
      groups: that can be thinned.
      fixed: names of groups that cannot.
      root: where the network's tree is in the parameters, such as ``("student_1",)``.
    """

    groups: tuple[Group, ...]
    fixed: tuple[str, ...]
    root: Path = ()

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        widths: Mapping[str, int],
        image_shape: tuple[int, int, int],
        root: Path = (),
    ) -> "Channels":
        """The layout of the network with these widths.

        Raises:
          ValueError: as :func:`find_groups`.
        """
        layers = architecture.layers(widths, image_shape)
        return cls(*find_groups(layers, architecture.ties(widths)), root)

    @functools.cached_property
    def group_of(self) -> np.ndarray:
        """``[units]`` int32: the index of each unit's group."""
        counts = [group.units for group in self.groups]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @functools.cached_property
    def unit_sizes(self) -> np.ndarray:
        """``[groups]`` float32: channels in a unit."""
        return np.array([group.unit for group in self.groups], np.float32)

    @functools.cached_property
    def scale_paths(self) -> tuple[Path, ...]:
        """Where each contributing scale vector is in the parameters."""
        return tuple(
            (*self.root, *path, "norm", "scale") for group in self.groups for path in group.writers
        )

    @functools.cached_property
    def _gather(self) -> np.ndarray:
        """``[contributors, units]``: positions in the concatenated scales; past them: none."""
        total = sum(group.channels * len(group.writers) for group in self.groups)
        depth = max(len(group.writers) * group.unit for group in self.groups)
        columns, start = [], 0
        for group in self.groups:
            size = len(group.writers) * group.channels
            # [writers, units, unit] -> [writers * unit, units]
            scales = np.arange(start, start + size).reshape(-1, group.units, group.unit)
            block = scales.transpose(0, 2, 1).reshape(-1, group.units)
            columns.append(np.pad(block, ((0, depth - len(block)), (0, 0)), constant_values=total))
            start += size
        return np.concatenate(columns, axis=1)

    @functools.cached_property
    def _scatter(self) -> np.ndarray:
        """``[scales]``: positions in the flattened matrix."""
        gather = self._gather.ravel()
        total = sum(group.channels * len(group.writers) for group in self.groups)
        places = np.zeros(total + 1, np.int32)
        places[gather] = np.arange(len(gather))
        return places[:total]

    def arranged(self, vectors: Sequence[chex.Array]) -> chex.Array:
        """``[contributors, units]`` float32 from one vector for each of ``scale_paths``.

        It is 0 where a unit has no such contributor.
        """
        return jnp.concatenate([*vectors, jnp.zeros(1)])[self._gather]

    def scales(self, params: Any) -> chex.Array:
        """``[contributors, units]`` float32: all scales, signed; 0 where there is none."""
        flat = flax.traverse_util.flatten_dict(params)
        return self.arranged([flat[path] for path in self.scale_paths])

    def biases(self, params: Any) -> chex.Array:
        """``[contributors, units]`` float32: the biases that go with the scales."""
        flat = flax.traverse_util.flatten_dict(params)
        return self.arranged([flat[(*path[:-1], "bias")] for path in self.scale_paths])

    def with_scales(self, params: Any, scales: chex.Array, biases: chex.Array | None = None) -> Any:
        """``params`` with the scales replaced, and the biases that go with them where given."""
        flat = dict(flax.traverse_util.flatten_dict(params))
        for name, matrix in (("scale", scales), ("bias", biases)):
            if matrix is None:
                continue
            vector, start = matrix.reshape(-1)[self._scatter], 0
            for path in self.scale_paths:
                size = flat[path].shape[0]
                flat[(*path[:-1], name)] = vector[start : start + size]
                start += size
        return flax.traverse_util.unflatten_dict(flat)

    def magnitudes(self, params: Any) -> chex.Array:
        """``[units]`` float32: the largest |scale| among the contributors of a unit."""
        return jnp.max(jnp.abs(self.scales(params)), axis=0)

    def counts(self, alive: chex.Array) -> chex.Array:
        """``[groups]`` float32: alive channels, from ``alive [units]`` (bool, or 0 to 1)."""
        sums = jnp.zeros(len(self.groups)).at[self.group_of].add(alive.astype(jnp.float32))
        return sums * self.unit_sizes

    def by_group(self, values: np.ndarray | chex.Array) -> dict[str, np.ndarray]:
        """``[units]`` -> a vector for each group, on the host."""
        ends = np.cumsum([group.units for group in self.groups])[:-1]
        parts = np.split(np.asarray(values), ends)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

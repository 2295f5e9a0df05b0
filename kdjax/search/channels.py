"""The scales that control which channels of a traced network live, and their layout as one matrix.

A scale controls a channel if it multiplies the channel before any layer reads it: the scale of a
normalisation after the layer that writes the channel, or before each layer that reads it. All
scales that control a channel are its contributors. The search works on all of them at once, as one
matrix ``[contributors, units]``. A unit is a single channel, or several channels that a grouped
convolution ties, which live and die together. Missing contributors are 0. Gathering and scattering
are one indexing operation each.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from kdjax import tracing
from kdjax.models import Architecture
from kdjax.tracing import Group, Traced
from kdjax.widths import WidthVector

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The layout of all scales of a network that a search can thin.

    An axis ``[units]`` holds only the units of ``groups``, one group after another. (In
    :class:`kdjax.tracing.Traced` units are numbered over all groups, from 1.) A unit is *dead* once
    the search has set all its scales to 0; until then it is *alive*.

    Attributes:
      traced: the network with all its channels.
      groups: the groups that can be thinned, in order of execution.
      fixed: names of the widths that cannot be thinned.
      root: where the network's tree is in the parameters, such as ``("student_1",)``.
    """

    traced: Traced
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

        Args:
          architecture: the architecture of the network.
          widths: the widths of the network with all channels alive.
          image_shape: (height, width, channels) of the input.
          root: where the network's tree is in the parameters.

        Raises:
          ValueError: if no group can be thinned.
          NotImplementedError: if the network cannot be traced.
        """
        full = dataclasses.replace(architecture, widths=WidthVector(widths))
        traced = tracing.trace_architecture(full, image_shape)
        return cls.in_network(traced, tuple(full.widths), root)

    @classmethod
    def in_network(cls, traced: Traced, names: Sequence[str], root: Path = ()) -> "Channels":
        """The layout of a traced network.

        Args:
          traced: the network with all its channels.
          names: the names in the width vector.
          root: where the network's tree is in the parameters.

        Raises:
          ValueError: if no group can be thinned.
        """

        def is_whole(group: Group) -> bool:
            """Whether the width vector can say how many channels of the group live.

            One number has to fit all members, so each member must have equally many channels.
            """
            return all(
                name in names
                and group.has(traced.widths[name]).all()
                and len(traced.widths[name]) == group.channels
                for name in group.members
            )

        groups = tuple(group for group in traced.free if is_whole(group))
        if not groups:
            raise ValueError("no channel of the network can be thinned: there is nothing to search")
        free = {member for group in groups for member in group.members}
        return cls(traced, groups, tuple(name for name in names if name not in free), root)

    @functools.cached_property
    def group_of(self) -> np.ndarray:
        """``[units]`` int32: the index of each unit's group."""
        counts = [group.units for group in self.groups]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @functools.cached_property
    def unit_sizes(self) -> np.ndarray:
        """``[groups]`` float32: the number of channels in a unit of each group."""
        return np.array([group.unit_size for group in self.groups], np.float32)

    @functools.cached_property
    def scale_paths(self) -> tuple[Path, ...]:
        """Where each contributing scale vector is in the parameters."""
        return self._scales.paths

    @functools.cached_property
    def kernel_paths(self) -> tuple[Path, ...]:
        """Where the kernels that write the groups are; their outputs are on the last axis."""
        return self._kernels.paths

    @functools.cached_property
    def _scales(self) -> "_Layout":
        return self._layout([[path[1:] for path in group.scales] for group in self.groups])

    @functools.cached_property
    def _kernels(self) -> "_Layout":
        return self._layout(
            [
                # A kernel that is used twice is one writer.
                list(
                    dict.fromkeys(
                        layer.kernel[1:]
                        for layer in self.traced.layers
                        if layer.kernel and group.has(layer.writes).any()
                    )
                )
                for group in self.groups
            ]
        )

    def _layout(self, paths: Sequence[Sequence[Path]]) -> "_Layout":
        """The layout of the last axes of arrays; ``paths`` lists the arrays of each group."""
        order = tuple(dict.fromkeys(path for own in paths for path in own))
        axes = {path: self.traced.leaves["params", *path][-1] for path in order}
        starts = dict(zip(order, np.cumsum([0, *map(len, axes.values())]), strict=False))
        blocks = []
        for group, own in zip(self.groups, paths, strict=True):
            places = [starts[path] + group.places(axes[path]) for path in own]
            # [units, contributors of each array] -> [contributors, units]
            blocks.append(np.concatenate(places, axis=1).T)
        total = sum(map(len, axes.values()))
        depth = max(map(len, blocks))
        columns = [
            np.pad(block, ((0, depth - len(block)), (0, 0)), constant_values=total)
            for block in blocks
        ]
        paths_in_tree = tuple((*self.root, *path) for path in order)
        return _Layout(paths_in_tree, tuple(map(len, axes.values())), np.concatenate(columns, 1))

    def arranged(self, vectors: Sequence[chex.Array]) -> chex.Array:
        """``[contributors, units]`` float32 from one vector for each of ``scale_paths``.

        It is 0 where a unit has no such contributor.
        """
        return self._scales.gathered(vectors)

    def arranged_outputs(self, vectors: Sequence[chex.Array]) -> chex.Array:
        """As :meth:`arranged`, from one vector over the outputs of each of ``kernel_paths``."""
        return self._kernels.gathered(vectors)

    def scales(self, params: Any) -> chex.Array:
        """``[contributors, units]`` float32: all scales, signed; 0 where there is none."""
        flat = flax.traverse_util.flatten_dict(params)
        return self.arranged([flat[path] for path in self.scale_paths])

    def biases(self, params: Any) -> chex.Array:
        """``[contributors, units]`` float32: the biases that go with the scales, 0 for none."""
        flat = flax.traverse_util.flatten_dict(params)
        return self.arranged(
            [flat.get(_bias(path), jnp.zeros_like(flat[path])) for path in self.scale_paths]
        )

    def with_scales(self, params: Any, scales: chex.Array, biases: chex.Array) -> Any:
        """Returns ``params`` with new scales, and new biases that go with the scales.

        Args:
          params: the parameters of the network.
          scales: ``[contributors, units]`` new scales.
          biases: ``[contributors, units]`` new biases; where a scale has none, they are not used.
        """
        flat = dict(flax.traverse_util.flatten_dict(params))
        old = [flat[path] for path in self.scale_paths]
        for path, new in zip(self.scale_paths, self._scales.scattered(old, scales), strict=True):
            flat[path] = new
        old = [flat.get(_bias(path), flat[path]) for path in self.scale_paths]
        for path, new in zip(self.scale_paths, self._scales.scattered(old, biases), strict=True):
            if _bias(path) in flat:
                flat[_bias(path)] = new
        return flax.traverse_util.unflatten_dict(flat)

    def magnitudes(self, params: Any) -> chex.Array:
        """``[units]`` float32: the largest |scale| among the contributors of a unit."""
        return jnp.max(jnp.abs(self.scales(params)), axis=0)

    def counts(self, alive: chex.Array) -> chex.Array:
        """``[groups]`` float32: alive channels, from ``alive [units]`` (bool, or 0 to 1)."""
        sums = jnp.zeros(len(self.groups)).at[self.group_of].add(alive.astype(jnp.float32))
        return sums * self.unit_sizes

    def counts_of(self, widths: Mapping[str, int]) -> np.ndarray:
        """``[groups]`` float64: number of channels of each group at these widths."""
        return np.array([widths[group.name] for group in self.groups], float)

    def by_group(self, values: np.ndarray | chex.Array) -> dict[str, np.ndarray]:
        """Splits ``values [units]`` into one vector for each group, on the host."""
        ends = np.cumsum([group.units for group in self.groups])[:-1]
        parts = np.split(np.asarray(values), ends)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def kept(self, alive: np.ndarray) -> dict[str, np.ndarray]:
        """Name of each width that can be thinned -> increasing indices of its living channels.

        Args:
          alive: ``[units]`` bool.
        """
        flags = self.by_group(alive)
        return {
            member: np.flatnonzero(
                np.isin(self.traced.widths[member], group.start + np.flatnonzero(flags[group.name]))
            )
            for group in self.groups
            for member in group.members
        }


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
    """Vectors laid end to end, and the positions of each unit's numbers in them.

    Attributes:
      paths: path of each vector.
      sizes: length of each vector.
      gather: ``[contributors, units]`` positions; one past the last position means no number.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    gather: np.ndarray

    def gathered(self, vectors: Sequence[chex.Array]) -> chex.Array:
        return jnp.concatenate([*vectors, jnp.zeros(1)])[self.gather]

    def scattered(self, vectors: Sequence[chex.Array], matrix: chex.Array) -> list[chex.Array]:
        """The vectors with the numbers of ``matrix``; numbers that belong to no unit stay."""
        joined = jnp.concatenate([matrix.reshape(-1), *vectors])[self._scatter]
        return jnp.split(joined, np.cumsum(self.sizes)[:-1])

    @functools.cached_property
    def _scatter(self) -> np.ndarray:
        """Where ``scattered`` takes each number from: the flattened matrix, then the vectors."""
        gather, total = self.gather.ravel(), sum(self.sizes)
        places = len(gather) + np.arange(total + 1)
        places[gather] = np.arange(len(gather))
        return places[:total]


def _bias(scale: Path) -> Path:
    return (*scale[:-1], "bias")

"""Channels of several students side by side in one map, and the layers that work on such maps."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp

from kdjax.models.normalization import Normalization


class Packing(NamedTuple):
    """How the channels of one map are divided among students.

    Attributes:
      widths: number of channels of each student, in order; channels after them are zero.
      channels: number of channels of the map.
    """

    widths: tuple[int, ...]
    channels: int

    @classmethod
    def of(cls, widths: Sequence[int], lanes: int) -> "Packing":
        """The widths side by side, padded to a multiple of ``lanes``."""
        return cls(tuple(widths), -(-sum(widths) // lanes) * lanes)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first channel of each student."""
        return tuple(itertools.accumulate(self.widths, initial=0))[:-1]

    def split(self, x: chex.Array) -> list[chex.Array]:
        """Each student's part of the last axis."""
        if self.widths == (self.channels,):
            return [x]
        return [
            x[..., start : start + width]
            for start, width in zip(self.starts, self.widths, strict=True)
        ]

    def place(self, part: chex.Array, student: int) -> chex.Array:
        """A map with one student's part (``student`` from 0) at its place and zeros elsewhere."""
        return _pad(part, -1, self.starts[student], self.channels)

    def join(self, parts: Sequence[chex.Array]) -> chex.Array:
        """The inverse of :meth:`split`."""
        x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        return _pad(x, -1, 0, self.channels)


def pack_kernels(kernels: Sequence[chex.Array], source: Packing, target: Packing) -> chex.Array:
    """Kernels ``[..., in_i, out_i]`` of students as one ``[..., in, out]``.

    If each student has its own channels in ``source``, the result is block-diagonal. If all read
    the same map, ``source`` has a single width and the outputs lie side by side.

    Args:
      kernels: one per student, ``[..., in_i, out_i]`` floats.
      source: where each student's input channels lie.
      target: where each student's output channels lie.
    """
    if len(source.widths) == 1:
        return _pad(target.join(kernels), -2, 0, source.channels)
    packed = []
    for kernel, start_in, start_out in zip(kernels, source.starts, target.starts, strict=True):
        rows = _pad(kernel, -2, start_in, source.channels)
        packed.append(_pad(rows, -1, start_out, target.channels))
    return sum(packed[1:], packed[0])


def pack_normalizations(layers: Sequence[Normalization], target: Packing) -> Normalization:
    """Variables side by side; padded channels become 0, as their scale and bias are 0."""
    return Normalization(*(target.join(leaves) for leaves in zip(*layers, strict=True)))


def _pad(x: chex.Array, axis: int, start: int, length: int) -> chex.Array:
    """Pads ``x`` with zeros, so that it begins at ``start`` on an axis of ``length``."""
    if x.shape[axis] == length:
        return x
    widths: list[Any] = [(0, 0)] * x.ndim
    widths[axis] = (start, length - start - x.shape[axis])
    return jnp.pad(x, widths)

"""Knowledge review: student maps, each fused with the later ones, are compared to the teacher's."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.config import Parts
from kdjax.models.execution import Mode
from kdjax.models.normalization import BatchNorm

_WIDEST = 512  # The largest number of channels in which maps are fused.


class Fusion(nn.Module):
    """Attention-based fusion of a block's map with the fused map of the next block.

    Attributes:
      middle: the number of channels in which the two maps are fused.
      channels: the number of channels of the result, the same as of the teacher's map.

    References:
      Chen, Liu, Zhao, Jia, *Distilling Knowledge via Knowledge Review*, CVPR 2021, figure 3 (a).
    """

    middle: int
    channels: int

    @nn.compact
    def __call__(
        self, x: chex.Array, later: chex.Array | None, size: tuple[int, int], mode: Mode
    ) -> tuple[chex.Array, chex.Array]:
        """Returns ``(map at the teacher's shape, fused map)``; the block before uses the second.

        Args:
          x: ``[batch, height, width, channels]``.
          later: ``[batch, ..., middle]``, the fused map of the next block; None: there is none.
          size: (height, width) of the teacher's map.
          mode: how to compute.
        """
        x = self._conv(self.middle, 1, mode, "conv1")(x)
        x = self._norm(mode, "norm1")(x, mode.train, mode.mask)
        if later is not None:
            later = _nearest(later, x.shape[1:3])
            both = jnp.concatenate([x, later], axis=-1)
            shares = nn.Conv(2, (1, 1), dtype=mode.dtype, name="attention")(both)
            shares = nn.sigmoid(shares)
            x = x * shares[..., :1] + later * shares[..., 1:]
        x = _nearest(x, size)
        out = self._conv(self.channels, 3, mode, "conv2")(x)
        return self._norm(mode, "norm2")(out, mode.train, mode.mask), x

    def _conv(self, channels: int, kernel: int, mode: Mode, name: str) -> nn.Conv:
        return nn.Conv(channels, (kernel, kernel), use_bias=False, dtype=mode.dtype, name=name)

    def _norm(self, mode: Mode, name: str) -> BatchNorm:
        return BatchNorm(mode.axis_name, mode.dtype, name=name)


class Review(nn.Module):
    """Fuses a student's maps from the last to the first, starting with the pooled last map."""

    @nn.compact
    def __call__(
        self, students: Sequence[chex.Array], teachers: Sequence[chex.Array], mode: Mode
    ) -> tuple[list[chex.Array], list[chex.Array]]:
        """Returns the arguments of :func:`kdjax.losses.review_kd`: fused and teacher's maps.

        Args:
          students: the student's map after each block, ``[batch, height, width, channels]``.
          teachers: the same number of maps of the teacher.
          mode: how to compute.
        """
        students, teachers = ([*maps, _pooled(maps[-1])] for maps in (students, teachers))
        middle = min(_WIDEST, students[-1].shape[-1])
        fused: list[chex.Array] = []
        later = None
        for number in range(len(students), 0, -1):
            teacher = teachers[number - 1]
            fusion = Fusion(middle, teacher.shape[-1], name=f"fusion{number}")
            size = (teacher.shape[1], teacher.shape[2])
            out, later = fusion(students[number - 1], later, size, mode)
            fused.insert(0, out)
        return fused, teachers


def _pooled(x: chex.Array) -> chex.Array:
    return jnp.mean(x, axis=(1, 2), keepdims=True)


def _nearest(x: chex.Array, size: Sequence[int]) -> chex.Array:
    """Resizes a map to a height and width; each pixel is a copy of the nearest one."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "nearest")


def parts() -> Parts:
    """The term's module and loss.

    >>> type(parts().module).__name__
    'Review'
    """
    return Parts(losses.review_kd, Review())

"""Knowledge review: each of a student's maps fused with the later ones, against the teacher's."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.config import Parts
from kdjax.models.execution import Mode
from kdjax.models.normalization import BatchNorm

_WIDEST = 512  # Channels in which maps are fused, at most.


class Fusion(nn.Module):
    """Attention-based fusion of a map with the one that was fused before it, of a later block.

    Attributes:
      middle: channels in which the two are fused.
      channels: of the result, as the teacher's map has them.

    References:
      Chen, Liu, Zhao, Jia, *Distilling Knowledge via Knowledge Review*, CVPR 2021, figure 3 (a).
    """

    middle: int
    channels: int

    @nn.compact
    def __call__(
        self, x: chex.Array, later: chex.Array | None, size: tuple[int, int], mode: Mode
    ) -> tuple[chex.Array, chex.Array]:
        """``(map at the teacher's shape, fused map)``, the second for the block before.

        Args:
          x: ``[batch, height, width, channels]``.
          later: ``[batch, ..., middle]``, fused before; None: there is none.
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
    """Fuses a student's maps from the last to the first, the pooled last map before them."""

    @nn.compact
    def __call__(
        self, students: Sequence[chex.Array], teachers: Sequence[chex.Array], mode: Mode
    ) -> tuple[list[chex.Array], list[chex.Array]]:
        """What :func:`kdjax.losses.review_kd` takes: fused maps, and the teacher's.

        Args:
          students: ``[batch, height, width, channels]`` after each block.
          teachers: as many, of the teacher.
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
    """The map at another height and width, each pixel a copy of the nearest."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "nearest")


def parts() -> Parts:
    """The term's module and loss.

    >>> type(parts().module).__name__
    'Review'
    """
    return Parts(losses.review_kd, Review())

"""Variational information distillation: small networks that predict the teacher's maps."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.config import Parts
from kdjax.losses.pooling import pool_to_smaller
from kdjax.models.execution import Mode

_LEAST = 1e-5  # Added to the variance.


class MapPredictor(nn.Module):
    """Predicts a Gaussian for each number of the teacher's map from the student's map.

    Attributes:
      variance: the variance of every channel at the start.

    References:
      Ahn et al., CVPR 2019, section 3; three 1x1 convolutions as in the released code.
    """

    variance: float = 5.0

    @nn.compact
    def __call__(
        self, student: chex.Array, teacher: chex.Array, mode: Mode
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        """Returns the arguments of :func:`kdjax.losses.vid`: mean, teacher's map, variance.

        The variance is one number per channel. If the maps differ in size, the larger map is
        average-pooled to the size of the smaller one.

        Args:
          student: ``[batch, height, width, channels]``.
          teacher: ``[batch, height, width, teacher channels]``.
          mode: how to compute.
        """
        if student.shape[1:3] != teacher.shape[1:3]:  # Networks of different families.
            student, teacher = pool_to_smaller(student, teacher)
        channels = teacher.shape[-1]
        mean = student
        for number in range(1, 4):
            name = f"conv{number}"
            mean = nn.Conv(channels, (1, 1), use_bias=False, dtype=mode.dtype, name=name)(mean)
            mean = nn.relu(mean) if number < 3 else mean
        # softplus(start) + least = variance.
        start = math.log(math.expm1(self.variance - _LEAST))
        raw = self.param("variance", nn.initializers.constant(start), (channels,), jnp.float32)
        return mean, teacher, jax.nn.softplus(raw) + _LEAST


def parts(*, variance: float) -> Parts:
    """The term's module and loss.

    >>> parts(variance=5.0).module.variance
    5.0
    """
    return Parts(losses.vid, MapPredictor(variance))

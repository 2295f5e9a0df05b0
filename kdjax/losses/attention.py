"""Attention transfer: where in the image a map is active."""

import chex
import jax.numpy as jnp

from kdjax.losses.arguments import check_maps
from kdjax.losses.numerics import unit
from kdjax.losses.pooling import pool_to_smaller


def attention_transfer(student_map: chex.Array, teacher_map: chex.Array) -> chex.Array:
    r"""Mean squared difference of two normalised attention maps.

    .. math:: \frac{1}{HW} \| \hat a_s - \hat a_t \|^2, \quad
        \hat a = \frac{a}{\|a\|_2}, \quad a_{hw} = \frac{1}{C} \sum_c F_{hwc}^2

    Maps of different sizes are first averaged to the smaller height and width of both; channels
    may differ. The usual weight is 1000, on the sum over stages.

    >>> attention_transfer(jnp.ones((1, 2, 2, 3)), 5.0 * jnp.ones((1, 4, 4, 7))).round(6).tolist()
    [0.0]

    Args:
      student_map: ``[batch, height, width, channels]`` floats.
      teacher_map: floats with the same axes. The loss is differentiable in both maps; if the
        teacher is fixed, the caller stops its gradient.

    Returns:
      ``[batch]`` float32.

    Raises:
      ValueError: if a map does not have four axes, or the batch sizes differ.

    References:
      Zagoruyko, Komodakis, *Paying More Attention to Attention*, ICLR 2017; the mean of squares
      and the weight as in RepDistiller.
    """
    check_maps(student_map=student_map, teacher_map=teacher_map)
    student, teacher = pool_to_smaller(student_map, teacher_map)
    difference = _attention(student) - _attention(teacher)
    return jnp.mean(jnp.square(difference), axis=(1, 2))


def _attention(values: chex.Array) -> chex.Array:
    return unit(jnp.mean(jnp.square(values), axis=-1), axis=(1, 2))

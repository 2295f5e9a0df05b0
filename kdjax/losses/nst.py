"""Neuron selectivity transfer: matches the image regions that channels respond to."""

import chex
import jax.numpy as jnp

from kdjax.losses.arguments import check_maps
from kdjax.losses.numerics import EXACT, unit
from kdjax.losses.pooling import pool_to_smaller


def nst(student_map: chex.Array, teacher_map: chex.Array) -> chex.Array:
    r"""Maximum mean discrepancy between the channels of two maps.

    With x a channel of the student and y a channel of the teacher, each a vector over the pixels
    divided by its length, and :math:`k(x, y) = (x \cdot y)^2`,

    .. math:: \frac{1}{C_s^2} \sum_{i,j} k(x_i, x_j) + \frac{1}{C_t^2} \sum_{i,j} k(y_i, y_j)
        - \frac{2}{C_s C_t} \sum_{i,j} k(x_i, y_j)

    Maps of different sizes are first averaged to the smaller height and width of both; channels
    may differ. The usual weight is 50.

    Args:
      student_map: ``[batch, height, width, channels]`` floats.
      teacher_map: floats with the same axes. The loss is differentiable in both maps; if the
        teacher is fixed, the caller stops its gradient.

    Returns:
      ``[batch]`` float32.

    Raises:
      ValueError: if a map does not have four axes, or the batch sizes differ.

    References:
      Huang, Wang, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer*, 2017,
      with the polynomial kernel of degree 2 and offset 0; the weight as in RepDistiller.
    """
    check_maps(student_map=student_map, teacher_map=teacher_map)
    student, teacher = pool_to_smaller(student_map, teacher_map)
    student, teacher = unit(student, axis=(1, 2)), unit(teacher, axis=(1, 2))
    return _kernel(student, student) + _kernel(teacher, teacher) - 2 * _kernel(student, teacher)


def _kernel(first: chex.Array, second: chex.Array) -> chex.Array:
    """``[batch]``: the mean of the kernel over all pairs of channels."""
    products = jnp.einsum("bhwc,bhwd->bcd", first, second, precision=EXACT)
    return jnp.mean(jnp.square(products), axis=(1, 2))

"""Similarity preserving distillation: which examples of a batch activate a network similarly."""

import chex
import jax.numpy as jnp

from kdjax.losses.arguments import check_batches
from kdjax.losses.global_batch import Rows
from kdjax.losses.numerics import EXACT, unit


def similarity_preserving(
    student_map: chex.Array,
    teacher_map: chex.Array,
    *,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""Squared difference of the pairwise similarities within a batch.

    With F ``[batch, ...]`` flattened to a matrix of one row per example, the mean of the returned
    values over the batch is

    .. math:: \frac{1}{B^2} \| \hat G_s - \hat G_t \|_F^2, \quad
        G = F F^\top, \; \hat G_i = G_i / \|G_i\|_2

    An example's value is the squared length of its row of this difference, divided by B. Sizes and
    channels may differ. The usual weight is 3000, on the last map.

    Args:
      student_map: ``[batch, ...]`` floats.
      teacher_map: ``[batch, ...]`` floats. The loss is differentiable in both; if the teacher is
        fixed, the caller stops its gradient.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if the batch sizes differ.

    References:
      Tung, Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019; the weight as in
      RepDistiller.
    """
    check_batches(student_map, teacher_map, "map")
    rows = Rows.of(student_map.shape[0], where, axis_name)

    def similarities(values: chex.Array) -> chex.Array:
        flat = rows.flat(values)
        return unit(jnp.matmul(flat, rows.everywhere(flat).T, precision=EXACT), axis=-1)

    difference = similarities(student_map) - similarities(teacher_map)
    return jnp.sum(jnp.square(difference), axis=-1) / rows.count()

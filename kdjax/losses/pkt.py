"""Probabilistic knowledge transfer: each example's neighbours as a distribution."""

import chex
import jax.numpy as jnp

from kdjax.losses.arguments import check_batches
from kdjax.losses.global_batch import Rows
from kdjax.losses.numerics import EXACT, square_root

_EPSILON = 1e-7


def pkt(
    student_embedding: chex.Array,
    teacher_embedding: chex.Array,
    *,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""Divergence between distributions over the examples of a batch.

    With :math:`p_{ij}` proportional to :math:`(1 + \cos(e_i, e_j)) / 2` over j, from the teacher's
    embeddings, and q the same from the student's, the mean of the returned values over the batch is

    .. math:: \frac{1}{B^2} \sum_{i,j} p_{ij} \log \frac{p_{ij} + \epsilon}{q_{ij} + \epsilon},
        \quad \epsilon = 10^{-7}

    The value of example i is the sum over j, divided by B. The widths of the embeddings may differ.
    The usual weight is 30000.

    Args:
      student_embedding: ``[batch, ...]`` floats, usually the pooled last map.
      teacher_embedding: ``[batch, ...]`` floats. The loss is differentiable in both; if the
        teacher is fixed, the caller stops its gradient.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if the batch sizes differ.

    References:
      Passalis, Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer*,
      ECCV 2018, with the cosine kernel, and the authors' released code; the weight as in
      RepDistiller.
    """
    check_batches(student_embedding, teacher_embedding, "embedding")
    rows = Rows.of(student_embedding.shape[0], where, axis_name)
    q, p = _neighbours(rows, student_embedding), _neighbours(rows, teacher_embedding)
    # log1p of the relative difference, because log of the ratio is inexact where p is close to q.
    ratio = jnp.log1p((p - q) / (q + _EPSILON))
    return jnp.sum(p * ratio, axis=-1) / rows.count()


def _neighbours(rows: Rows, embedding: chex.Array) -> chex.Array:
    """``[batch, global batch]`` probabilities; rows and columns of padded examples are 0."""
    flat = rows.flat(embedding)
    length = square_root(jnp.sum(jnp.square(flat), axis=-1, keepdims=True))
    directions = jnp.where(length <= 0, 0.0, flat / (length + _EPSILON))
    cosine = jnp.matmul(directions, rows.everywhere(directions).T, precision=EXACT)
    real = rows.real[:, None] & rows.everywhere(rows.real)
    similarity = jnp.where(real, jnp.maximum(0.5 * (cosine + 1.0), 0.0), 0.0)
    total = jnp.sum(similarity, axis=-1, keepdims=True)
    return similarity / jnp.where(total <= 0, 1.0, total)

"""Relational distillation: distances and angles between the examples of a batch."""

import chex
import jax.numpy as jnp
import optax

from kdjax.losses.arguments import check_batches
from kdjax.losses.global_batch import Rows
from kdjax.losses.numerics import EXACT, unit

# Lower bound of squared distances. Distances are divided by their mean, which must not be 0.
_SMALLEST_SQUARE = 1e-12


def rkd(
    student_embedding: chex.Array,
    teacher_embedding: chex.Array,
    *,
    distance_weight: chex.Numeric = 25.0,
    angle_weight: chex.Numeric = 50.0,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""Smooth L1 differences of normalised distances and of cosines of angles.

    With e the embeddings, d their Euclidean distances, :math:`\mu` the mean of d over pairs of
    different examples, :math:`u_{ij}` the unit vector from :math:`e_i` to :math:`e_j` and l the
    Huber loss with threshold 1, the mean of the returned values over the batch is

    .. math::
        \frac{w_{\mathrm{distance}}}{B^2} \sum_{i,j}
        l\big(d^s_{ij} / \mu^s - d^t_{ij} / \mu^t\big)
        + \frac{w_{\mathrm{angle}}}{B^3} \sum_{i,j,k}
        l\big(u^s_{ij} \cdot u^s_{ik} - u^t_{ij} \cdot u^t_{ik}\big)

    The value of example i contains the pairs and angles that start at i. Memory use grows with the
    cube of the batch size. The widths of the embeddings may differ.

    Args:
      student_embedding: ``[batch, ...]`` floats, usually the pooled last map.
      teacher_embedding: ``[batch, ...]`` floats. The loss is differentiable in both; if the
        teacher is fixed, the caller stops its gradient.
      distance_weight: the weight of the term of distances.
      angle_weight: the weight of the term of angles.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if the batch sizes differ.

    References:
      Park, Kim, Lu, Cho, *Relational Knowledge Distillation*, CVPR 2019, sections 3.2.1 and 3.2.2;
      means in place of sums as in RepDistiller.
    """
    check_batches(student_embedding, teacher_embedding, "embedding")
    rows = Rows.of(student_embedding.shape[0], where, axis_name)
    student = _differences(rows, student_embedding)
    teacher = _differences(rows, teacher_embedding)
    count = rows.count()
    distance = optax.huber_loss(_distances(rows, student), _distances(rows, teacher))
    angle = optax.huber_loss(_cosines(student), _cosines(teacher))
    return (
        distance_weight * jnp.sum(distance, axis=1) / count
        + angle_weight * jnp.sum(angle, axis=(1, 2)) / count**2
    )


def _differences(rows: Rows, embedding: chex.Array) -> chex.Array:
    """``e_j - e_i`` for own i, all j, ``[batch, global batch, width]``; 0 unless both are real."""
    flat = rows.flat(embedding)
    difference = rows.everywhere(flat)[None, :, :] - flat[:, None, :]
    return jnp.where(rows.pairs()[..., None], difference, 0.0)


def _distances(rows: Rows, difference: chex.Array) -> chex.Array:
    """``[batch, global batch]`` distances divided by their mean; 0 unless both are real."""
    pairs = rows.pairs()
    squared = jnp.sum(jnp.square(difference), axis=-1)
    distances = jnp.where(pairs, jnp.sqrt(jnp.maximum(squared, _SMALLEST_SQUARE)), 0.0)
    number = jnp.maximum(rows.total(jnp.sum(pairs, axis=1, dtype=jnp.float32)), 1.0)
    mean = rows.total(jnp.sum(distances, axis=1)) / number
    return distances / jnp.where(mean > 0, mean, 1.0)


def _cosines(difference: chex.Array) -> chex.Array:
    """``[batch, global batch, global batch]`` cosines of the angles at each own example."""
    directions = unit(difference, axis=-1)
    return jnp.einsum("ijd,ikd->ijk", directions, directions, precision=EXACT)

"""DIST: correlations between classes and within classes, instead of a divergence."""

from collections.abc import Callable

import chex
import jax.numpy as jnp

from kdjax.losses.arguments import check_temperature
from kdjax.losses.global_batch import softened
from kdjax.losses.numerics import EQUAL, square_root

_EPSILON = 1e-8


def dist(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    *,
    inter_weight: chex.Numeric = 1.0,
    intra_weight: chex.Numeric = 1.0,
    temperature: chex.Numeric = 1.0,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""One minus the correlation of predictions, over classes and over examples.

    With P and Q ``[batch, classes]`` the softmax of teacher and student at temperature T and
    :math:`\rho` Pearson's correlation, the mean of the returned values over the batch is

    .. math::
        T^2 \Big[ w_{\mathrm{inter}} \Big(1 - \frac{1}{B} \sum_i \rho(P_{i\cdot}, Q_{i\cdot})\Big)
        + w_{\mathrm{intra}} \Big(1 - \frac{1}{K} \sum_k \rho(P_{\cdot k}, Q_{\cdot k})\Big) \Big]

    The second part depends on all examples of the batch. An example's value contains its own term
    of each :math:`\rho(P_{\cdot k}, Q_{\cdot k})`, times B.

    The function is differentiable in both logits; if the teacher is fixed, the caller stops its
    gradient. Where all probabilities are equal (such as for logits of 0), the correlation counts as
    0 and gives no gradient.

    Args:
      student_logits: ``[batch, classes]`` floats.
      teacher_logits: floats of the same shape.
      inter_weight: the weight of the relation between the classes of one example.
      intra_weight: the weight of the relation between the examples of one class.
      temperature: T from 1e-3 to 1e6.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if the shapes differ or the temperature is not in its range.

    References:
      Huang, You, Wang, Qian, Xu, *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022,
      equations 8 and 9; the factor T^2, and 1e-8 added to each product of lengths, as in the
      authors' released code. At high temperatures such lengths are small: with 1,000 classes, 64
      examples and T = 20, the relation between examples of equal logits is 0.98, not 1.
    """
    temperature = check_temperature(temperature)
    rows, q, p = softened(student_logits, teacher_logits, temperature, where, axis_name)
    count = rows.count()

    def over_classes(values: chex.Array) -> chex.Array:
        return jnp.sum(values, axis=-1, keepdims=True)

    a, b = (values - over_classes(values) / values.shape[-1] for values in (q, p))
    lengths = _length(over_classes, a, q) * _length(over_classes, b, p)
    inter = 1.0 - jnp.sum(_quotient(a * b, lengths), axis=-1)

    a, b = (rows.keep(values - rows.total(values) / count) for values in (q, p))
    lengths = _length(rows.total, a, q) * _length(rows.total, b, p)
    intra = 1.0 - count * jnp.mean(_quotient(a * b, lengths), axis=-1)
    return rows.keep(temperature**2 * (inter_weight * inter + intra_weight * intra))


def _length(
    total: Callable[[chex.Array], chex.Array], centred: chex.Array, values: chex.Array
) -> chex.Array:
    """Euclidean length of centred values; 0 where they are equal up to rounding."""
    squared, size = total(jnp.square(centred)), total(jnp.square(values))
    return square_root(jnp.where(squared <= EQUAL * size, 0.0, squared))


def _quotient(product: chex.Array, lengths: chex.Array) -> chex.Array:
    # Equal values have no correlation; dividing by epsilon would give a huge derivative.
    return jnp.where(lengths <= 0, 0.0, product / (lengths + _EPSILON))

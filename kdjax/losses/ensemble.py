"""The online ensemble's objective: students learn from labels, their mean and the pivot."""

from collections.abc import Mapping, Sequence

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_students_logits
from kdjax.losses.distillation import distillation_loss


def ensemble_logits(
    logits: chex.Array, weights: Sequence[float] | chex.Array | None = None
) -> chex.Array:
    """The ensemble teacher's logits: a convex combination of the students'.

    >>> ensemble_logits(jnp.array([[[0.0, 2.0]], [[4.0, 2.0]]])).tolist()
    [[2.0, 2.0]]

    Args:
      logits: ``[students, ..., classes]`` floats.
      weights: one number per student, none negative, summing to 1, such as
        :func:`kdjax.losses.accuracy_weights`; None means uniform.

    Returns:
      ``[..., classes]`` float32.

    Raises:
      ValueError: if there is not one weight per student, a weight is negative, or the weights do
        not sum to 1. The last two are checked only outside ``jit``, where the values are known.

    References:
      Walawalkar, Shen, Savvides, *Online Ensemble Model Compression using Knowledge Distillation*,
      ECCV 2020 (ensemble teacher).
    """
    logits = jnp.asarray(logits, jnp.float32)
    students = logits.shape[0]
    if weights is None:
        return jnp.mean(logits, axis=0)
    if len(weights) != students:
        raise ValueError(f"weights has {len(weights)} entries for {students} students")
    known = not any(isinstance(value, jax.core.Tracer) for value in (weights, *weights))
    if known and not (min(weights) >= 0 and abs(sum(weights) - 1.0) <= 1e-6):  # NaN is refused too.
        raise ValueError(f"weights are {tuple(weights)}: none may be negative, the sum must be 1")
    return jnp.tensordot(jnp.asarray(weights, jnp.float32), logits, axes=1)


def online_ensemble_loss(
    logits: chex.Array,
    feature_pairs: Sequence[Sequence[tuple[chex.Array, chex.Array]]],
    labels: chex.Array,
    *,
    weights: Mapping[str, chex.Numeric],
    temperature: chex.Numeric,
    teacher_weights: Sequence[float] | chex.Array | None = None,
    label_smoothing: float = 0.0,
) -> tuple[chex.Array, dict[str, chex.Array]]:
    r"""The loss of online ensemble distillation, per example, with each of its terms.

    For training loops of your own. kdjax's own step adds up the terms that a configuration switches
    on; with these three the result is the same.

    With :math:`z_i` the logits of student i, t their (constant) combination, :math:`m_{b,i}` the
    map after block b and A the adapters:

    .. math::
        w_\mathrm{hard} \sum_i \mathrm{CE}(z_i, y)
        + w_\mathrm{feature} \sum_b \sum_{i \ge 2} \mathrm{MSE}(A_{b,i}(m_{b,i}), m_{b,1})
        + w_\mathrm{soft} \sum_i T^2 \, \mathrm{KL}(t / T \,\|\, z_i / T)

    No gradient flows through the combined logits t or through the pivot's maps.

    Args:
      logits: ``[students, batch, classes]`` floats; student 1 (index 0) is the pivot.
      feature_pairs: for each block, for each student 2..S in order, the pair ``(student_map,
        pivot_map)`` of equal shapes ``[batch, ...]``. Empty: no feature term.
      labels: ``[batch]`` integers.
      weights: for each of ``hard``, ``feature`` and ``soft`` one number, or ``[students]`` numbers;
        the paper uses 0.7, 0.15 and 0.15.
      temperature: T from 1e-3 to 1e6; the paper uses 2.
      teacher_weights: the convex combination of :func:`ensemble_logits`.
      label_smoothing: the label smoothing of the hard term.

    Returns:
      ``(total, terms)``: total ``[batch]`` float32, and for each of hard, feature and soft the
      unweighted ``[students, batch]`` float32 (the pivot's feature row is 0). With numbers as
      weights ``total == sum(weights[k] * terms[k].sum(0))``.

    Raises:
      ValueError: if a weight is missing or unknown, a block does not pair students 2..S, or
        shapes do not match.

    References:
      Walawalkar, Shen, Savvides, *Online Ensemble Model Compression using Knowledge Distillation*,
      ECCV 2020.
    """
    check_students_logits(logits)
    students = logits.shape[0]
    for block, pairs in enumerate(feature_pairs):
        if len(pairs) != students - 1:
            raise ValueError(
                f"feature_pairs[{block}] has {len(pairs)} pairs: expected one for each of the "
                f"students 2..{students}"
            )
    return distillation_loss(
        logits,
        ensemble_logits(logits, teacher_weights),
        [(None, *pairs) for pairs in feature_pairs],
        labels,
        weights=weights,
        temperature=temperature,
        label_smoothing=label_smoothing,
    )

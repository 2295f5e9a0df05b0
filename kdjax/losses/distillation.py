"""Distillation from a fixed teacher: several students against the labels and one teacher."""

from collections.abc import Mapping, Sequence

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_students_logits
from kdjax.losses.features import feature_mse
from kdjax.losses.hard_labels import hard_label_cross_entropy
from kdjax.losses.soft_targets import soft_target_kl

TERMS = ("hard", "feature", "soft")


def distillation_loss(
    logits: chex.Array,
    teacher_logits: chex.Array,
    feature_pairs: Sequence[Sequence[tuple[chex.Array, chex.Array] | None]],
    labels: chex.Array,
    *,
    weights: Mapping[str, chex.Numeric],
    temperature: chex.Numeric,
    label_smoothing: float = 0.0,
) -> tuple[chex.Array, dict[str, chex.Array]]:
    r"""The loss of students that learn from labels and from one trained teacher, per example.

    For training loops of your own, as :func:`kdjax.losses.online_ensemble_loss`.

    With :math:`z_i` the logits of student i, t the teacher's and :math:`m_b` maps after block b:

    .. math::
        \sum_i w_{\mathrm{hard},i} \mathrm{CE}(z_i, y)
        + w_{\mathrm{feature},i} \sum_b \mathrm{MSE}(m_{b,i}, m_b)
        + w_{\mathrm{soft},i} T^2 \, \mathrm{KL}(t / T \,\|\, z_i / T)

    No gradient flows into the teacher.

    Args:
      logits: ``[students, batch, classes]`` floats.
      teacher_logits: ``[batch, classes]`` floats.
      feature_pairs: for each block, for each student, ``(student_map, teacher_map)`` of equal
        shapes ``[batch, ...]``, or None for a student without a feature term in this block. Empty:
        no feature term.
      labels: ``[batch]`` integers.
      weights: for each of ``hard``, ``feature`` and ``soft`` one number, or ``[students]`` numbers.
        A student with the weights (1, 0, 0) learns from labels alone.
      temperature: T from 1e-3 to 1e6.
      label_smoothing: the label smoothing of the hard term.

    Returns:
      ``(total, terms)``: total ``[batch]`` float32, and for each of hard, feature and soft the
      unweighted ``[students, batch]`` float32.

    Raises:
      ValueError: if a weight is missing or unknown, a block does not have one pair per student, or
        shapes do not match.

    References:
      Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015.
      Ahmed, Zunino, Morerio, Murino, *Compact CNN Structure Learning by Knowledge Distillation*,
      ICPR 2020 (our reading).
    """
    if set(weights.keys()) != set(TERMS):
        raise ValueError(f"weights names {sorted(weights.keys())}: expected {sorted(TERMS)}")
    _check_axes(logits, teacher_logits, labels)
    students, batch = logits.shape[:2]
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    feature = [jnp.zeros((batch,), jnp.float32) for _ in range(students)]
    for block, pairs in enumerate(feature_pairs):
        if len(pairs) != students:
            raise ValueError(
                f"feature_pairs[{block}] has {len(pairs)} entries: expected one for each of the "
                f"{students} students"
            )
        for index, pair in enumerate(pairs):
            if pair is not None:
                if pair[0].shape[0] != batch:
                    raise ValueError(
                        f"feature_pairs[{block}]: the maps of student {index + 1} have "
                        f"{pair[0].shape[0]} examples, the logits {batch}"
                    )
                feature[index] += feature_mse(pair[0], jax.lax.stop_gradient(pair[1]))
    terms = {
        "hard": hard_label_cross_entropy(logits, labels, label_smoothing=label_smoothing),
        "feature": jnp.stack(feature),
        "soft": soft_target_kl(logits, teacher_logits, temperature=temperature),
    }
    per_student = {
        name: jnp.broadcast_to(jnp.asarray(weights[name], jnp.float32), (students,))
        for name in TERMS
    }
    total = sum(
        (jnp.tensordot(per_student[name], terms[name], axes=1) for name in TERMS),
        jnp.zeros(batch),
    )
    return total, terms


def _check_axes(logits: chex.Array, teacher_logits: chex.Array, labels: chex.Array) -> None:
    check_students_logits(logits)
    for name, found, expected in (
        ("teacher_logits", jnp.shape(teacher_logits), logits.shape[1:]),
        ("labels", jnp.shape(labels)[:1], logits.shape[1:2]),
    ):
        if found != expected:
            raise ValueError(
                f"{name} have shape {found}, expected {expected}: the logits have {logits.shape}"
            )

"""Normalised knowledge distillation: one term for the target class, one for all others."""

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_temperature, class_indices
from kdjax.losses.hard_labels import hard_label_cross_entropy
from kdjax.losses.numerics import saturate
from kdjax.losses.soft_targets import soft_target_kl


def nkd(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    labels: chex.Array,
    *,
    other_weight: chex.Numeric = 1.5,
    temperature: chex.Numeric = 1.0,
) -> chex.Array:
    r"""Normalised distillation: cross entropies of the target and of the renormalised others.

    With p and q the teacher's and the student's softmax, y the label, and hats denoting the softmax
    at temperature T over the classes other than y,

    .. math::
        -p_y \log q_y - w_{\mathrm{other}} T^2 \sum_{k \ne y} \hat p_k \log \hat q_k

    The first term is taken at temperature 1. Both terms are cross entropies, so equal logits of
    student and teacher do not give 0.

    The function is differentiable in both logits; if the teacher is fixed, the caller stops its
    gradient. Finite logits give finite values and gradients.

    Args:
      student_logits: ``[..., classes]`` floats, usually ``[batch, classes]``.
      teacher_logits: floats that broadcast against ``student_logits``.
      labels: integers that broadcast to ``[...]``. Inside ``jit`` a label out of range gives NaN.
      other_weight: the weight of the second term; 1.5 on ImageNet.
      temperature: T of the second term, from 1e-3 to 1e6; 1 on ImageNet.

    Returns:
      ``[...]`` float32.

    Raises:
      ValueError: if the temperature is not in its range, or labels are not integers or (outside
        ``jit``) out of range.

    References:
      Yang, Zeng, Li, Zhang, Yuan, Li, *From Knowledge Distillation to Self-Knowledge Distillation:
      A Unified Approach with Normalized Loss and Customized Soft Labels*, ICCV 2023, and the
      authors' released code.
    """
    temperature = check_temperature(temperature)
    student, teacher = jnp.broadcast_arrays(
        jnp.asarray(student_logits, jnp.float32), jnp.asarray(teacher_logits, jnp.float32)
    )
    indices, valid = class_indices(labels, student.shape[-1])
    is_target = jax.nn.one_hot(indices, student.shape[-1], dtype=bool)
    certainty = jnp.sum(jnp.where(is_target, jax.nn.softmax(teacher), 0.0), axis=-1)
    target = certainty * hard_label_cross_entropy(student, indices)
    # Cross entropy = divergence + entropy. Both stay finite where computing the cross entropy
    # directly would overflow.
    others = soft_target_kl(student, teacher, temperature=temperature, where=~is_target)
    softened = jnp.where(is_target, -jnp.inf, teacher / temperature)
    log_p = jax.nn.log_softmax(softened, where=~is_target)
    log_p = jnp.where(log_p > -jnp.inf, log_p, 0.0)
    entropy = -jnp.sum(jnp.where(is_target, 0.0, jnp.exp(log_p) * log_p), axis=-1)
    total = target + other_weight * (others + temperature**2 * entropy)
    return jnp.where(valid, saturate(total), jnp.nan)

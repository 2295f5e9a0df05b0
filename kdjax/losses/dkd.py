"""Decoupled knowledge distillation: one term for the target class, one for all others."""

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_temperature, class_indices
from kdjax.losses.numerics import saturate
from kdjax.losses.soft_targets import soft_target_kl


def dkd(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    labels: chex.Array,
    *,
    target_weight: chex.Numeric = 1.0,
    other_weight: chex.Numeric = 8.0,
    temperature: chex.Numeric = 4.0,
) -> chex.Array:
    r"""Decoupled distillation: two divergences, weighted independently.

    With p and q the teacher's and the student's softmax at temperature T and y the label,

    .. math::
        w_{\mathrm{target}} T^2 \, \mathrm{KL}\big((p_y, 1 - p_y) \,\|\, (q_y, 1 - q_y)\big)
        + w_{\mathrm{other}} T^2 \, \mathrm{KL}(\hat p \,\|\, \hat q)

    where the hats are the softmax over the classes other than y. Both divergences are taken in log
    space (the released code takes the logarithm of a sum, which may be 0), and the target class is
    left out, not masked by a large number.

    The function is differentiable in both logits; if the teacher is fixed, the caller stops its
    gradient. Values and gradients are finite as long as logits divided by T are. The first
    divergence loses digits at high temperatures: with 100 classes its relative error is 7e-4 at
    T = 1e3.

    Args:
      student_logits: ``[..., classes]`` floats, usually ``[batch, classes]``.
      teacher_logits: floats that broadcast against ``student_logits``.
      labels: integers that broadcast to ``[...]``. Inside ``jit`` a label out of range gives NaN.
      target_weight: the weight of the first divergence.
      other_weight: the weight of the second. The released CIFAR-100 settings use 8, 6 (wide
        residual and VGG networks) and 2 (small residual networks); the ImageNet settings use 0.5
        and 2.
      temperature: T from 1e-3 to 1e6; 4 on CIFAR-100, 1 on ImageNet.

    Returns:
      ``[...]`` float32.

    Raises:
      ValueError: if the temperature is not in its range, or labels are not integers or (outside
        ``jit``) out of range.

    References:
      Zhao, Cui, Song, Qiu, Liang, *Decoupled Knowledge Distillation*, CVPR 2022, and the authors'
      released code.
    """
    temperature = check_temperature(temperature)
    student, teacher = jnp.broadcast_arrays(
        jnp.asarray(student_logits, jnp.float32), jnp.asarray(teacher_logits, jnp.float32)
    )
    indices, valid = class_indices(labels, student.shape[-1])
    is_target = jax.nn.one_hot(indices, student.shape[-1], dtype=bool)
    target = soft_target_kl(
        _target_and_rest(student, is_target, temperature),
        _target_and_rest(teacher, is_target, temperature),
        temperature=temperature,
    )
    others = soft_target_kl(student, teacher, temperature=temperature, where=~is_target)
    return jnp.where(valid, saturate(target_weight * target + other_weight * others), jnp.nan)


def _target_and_rest(
    logits: chex.Array, is_target: chex.Array, temperature: chex.Numeric
) -> chex.Array:
    """``[..., 2]`` logits whose softmax at the temperature is that of target and other classes."""
    target = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    rest = jax.nn.logsumexp(logits / temperature, axis=-1, where=~is_target)
    return jnp.stack([target, temperature * rest], axis=-1)

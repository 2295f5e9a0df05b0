"""Soft targets: the divergence between a teacher's and a student's softened predictions."""

import chex
import jax
import jax.numpy as jnp


def soft_target_kl(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    *,
    temperature: chex.Numeric,
    axis: int = -1,
    where: chex.Array | None = None,
) -> chex.Array:
    r"""Kullback-Leibler divergence from the student's to the teacher's softened distribution.

    .. math::
        T^2 \sum_k p_k (\log p_k - \log q_k), \quad
        p = \mathrm{softmax}(t / T), \; q = \mathrm{softmax}(z / T)

    The factor :math:`T^2` keeps the size of the gradient independent of the temperature. Both
    sides stay in log space. A class the teacher gives probability zero (a logit of ``-inf``)
    contributes zero, in value and in gradient.

    The function is differentiable in both arguments. A caller whose teacher is a constant stops
    its gradient, as :func:`kdjax.losses.online_ensemble_loss` does.

    >>> float(soft_target_kl(jnp.zeros(3), jnp.zeros(3), temperature=2.0))
    0.0

    Args:
      student_logits: ``[..., classes]`` floats, unnormalised.
      teacher_logits: floats that broadcast against ``student_logits``.
      temperature: T > 0, a number or a scalar array.
      axis: the axis of the classes.
      where: booleans that broadcast against the logits; classes that are False do not exist.

    Returns:
      ``[...]`` float32: one divergence per distribution, at least 0 up to rounding.

    Raises:
      ValueError: if a temperature given as a number is not above 0, or the logits do not
        broadcast.

    References:
      Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015, section 2.
      Walawalkar, Shen, Savvides, ECCV 2020, section 3 (intermediate/soft losses).
    """
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    student = jnp.asarray(student_logits, jnp.float32) / temperature
    teacher = jnp.asarray(teacher_logits, jnp.float32) / temperature
    student, teacher = jnp.broadcast_arrays(student, teacher)
    if where is not None:
        where = jnp.broadcast_to(where, teacher.shape)
    log_q = jax.nn.log_softmax(student, axis=axis, where=where)
    log_p = jax.nn.log_softmax(teacher, axis=axis, where=where)
    # 0 * (-inf) is NaN, in the value and in the gradient: such classes are replaced before they
    # are multiplied, not after.
    present = log_p > -jnp.inf
    safe_log_p = jnp.where(present, log_p, 0.0)
    safe_log_q = jnp.where(present, log_q, 0.0)
    divergence = jnp.where(present, jnp.exp(safe_log_p) * (safe_log_p - safe_log_q), 0.0)
    return temperature**2 * jnp.sum(divergence, axis=axis)

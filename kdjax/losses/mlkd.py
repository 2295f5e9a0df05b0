"""Multi-level logit distillation: relations of predictions between examples and classes."""

import chex
import jax.numpy as jnp

from kdjax.losses.global_batch import softened
from kdjax.losses.numerics import EXACT


def mlkd_batch(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    *,
    temperature: chex.Numeric = 4.0,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""Batch-level alignment: how alike the predictions of any two examples are.

    With P and Q ``[batch, classes]`` the softmax of teacher and student at temperature T, the mean
    of the returned values over the batch is

    .. math:: \frac{1}{B} \| P P^\top - Q Q^\top \|_F^2

    An example's value is the squared length of its row of this difference. There is no factor
    :math:`T^2`, as in the released code. The paper adds the instance level
    (:func:`kdjax.losses.soft_target_kl`) and sums over several temperatures.

    Args:
      student_logits: ``[batch, classes]`` floats.
      teacher_logits: floats of the same shape. The loss is differentiable in both; if the teacher
        is fixed, the caller stops its gradient.
      temperature: T from 1e-3 to 1e6.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if the shapes differ or the temperature is not in its range.

    References:
      Jin, Wang, Lin, *Multi-Level Logit Distillation*, CVPR 2023 (batch level).
    """
    rows, q, p = softened(student_logits, teacher_logits, temperature, where, axis_name)
    ours = jnp.matmul(q, rows.everywhere(q).T, precision=EXACT)
    theirs = jnp.matmul(p, rows.everywhere(p).T, precision=EXACT)
    return jnp.sum(jnp.square(theirs - ours), axis=-1)


def mlkd_class(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    *,
    temperature: chex.Numeric = 4.0,
    where: chex.Array | None = None,
    axis_name: str | None = None,
) -> chex.Array:
    r"""Class-level alignment: how often any two classes are predicted together.

    With P and Q ``[batch, classes]`` the softmax of teacher and student at temperature T, the mean
    of the returned values over the batch is

    .. math:: \frac{1}{K} \| P^\top P - Q^\top Q \|_F^2 = \frac{1}{K} \|M\|_F^2

    M is a sum of one matrix per example. An example's value is the inner product of its matrix with
    M, times B / K; it may be negative. As in the released code, there is no factor :math:`T^2` and
    no division by the batch size.

    Args:
      student_logits: ``[batch, classes]`` floats.
      teacher_logits: floats of the same shape. The loss is differentiable in both; if the teacher
        is fixed, the caller stops its gradient.
      temperature: T from 1e-3 to 1e6.
      where: ``[batch]`` booleans: real rows. Padded rows are ignored.
      axis_name: a mapped axis of devices that share the batch (:mod:`kdjax.losses.global_batch`);
        None: this device has the whole batch.

    Returns:
      ``[batch]`` float32, 0 in padded rows.

    Raises:
      ValueError: if the shapes differ or the temperature is not in its range.

    References:
      Jin, Wang, Lin, *Multi-Level Logit Distillation*, CVPR 2023 (class level).
    """
    rows, q, p = softened(student_logits, teacher_logits, temperature, where, axis_name)
    # Rows.total sums over axis 0, so this device's one matrix gets a leading axis.
    difference = jnp.matmul(p.T, p, precision=EXACT) - jnp.matmul(q.T, q, precision=EXACT)
    difference = rows.total(difference[None])

    def form(values: chex.Array) -> chex.Array:
        return jnp.sum(jnp.matmul(values, difference, precision=EXACT) * values, axis=-1)

    return rows.count() / p.shape[-1] * (form(p) - form(q))

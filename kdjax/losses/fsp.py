"""Flow of the solution procedure: how one map of a network turns into the next."""

import chex
import jax.numpy as jnp

from kdjax.losses.arguments import check_maps
from kdjax.losses.numerics import EXACT
from kdjax.losses.pooling import pool_to_smaller


def fsp(
    student_first: chex.Array,
    student_second: chex.Array,
    teacher_first: chex.Array,
    teacher_second: chex.Array,
) -> chex.Array:
    r"""Mean squared difference of the flow matrices of student and teacher.

    .. math:: \frac{1}{C_1 C_2} \| M^s - M^t \|_F^2, \quad
        M_{cd} = \frac{1}{HW} \sum_{h,w} F^1_{hwc} F^2_{hwd}

    The two maps of one network are averaged to the smaller height and width of both. Student and
    teacher may differ in height and width, but not in channels: a thinned student cannot use this
    loss. The usual weight is 50, on the sum over pairs of stages.

    Args:
      student_first: ``[batch, height, width, channels]`` floats, the map where the flow starts.
      student_second: the map where the flow ends, with the same axes.
      teacher_first: the teacher's first map, with as many channels as ``student_first``.
      teacher_second: the teacher's second map, with as many channels as ``student_second``. The
        loss is differentiable in all maps; if the teacher is fixed, the caller stops its gradient.

    Returns:
      ``[batch]`` float32.

    Raises:
      ValueError: if channels or batch sizes differ, or a map does not have four axes.

    References:
      Yim, Joo, Bae, Kim, *A Gift from Knowledge Distillation*, CVPR 2017; the mean over the matrix,
      and the weight, as in RepDistiller.
    """
    check_maps(
        student_first=student_first,
        student_second=student_second,
        teacher_first=teacher_first,
        teacher_second=teacher_second,
    )
    for name, student, teacher in (
        ("first", student_first, teacher_first),
        ("second", student_second, teacher_second),
    ):
        if student.shape[-1] != teacher.shape[-1]:
            raise ValueError(
                f"student_{name} has {student.shape[-1]} channels and teacher_{name} "
                f"{teacher.shape[-1]}: fsp needs equal numbers"
            )
    difference = _flow(student_first, student_second) - _flow(teacher_first, teacher_second)
    return jnp.mean(jnp.square(difference), axis=(1, 2))


def _flow(first: chex.Array, second: chex.Array) -> chex.Array:
    """The flow matrices ``[batch, channels of first, channels of second]``."""
    first, second = pool_to_smaller(first, second)
    pixels = first.shape[1] * first.shape[2]
    return jnp.einsum("bhwc,bhwd->bcd", first, second, precision=EXACT) / pixels

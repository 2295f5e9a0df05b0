"""Knowledge review: a distance between maps at several scales."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp

from kdjax.losses.features import feature_mse
from kdjax.losses.pooling import pool_to

_SIZES = (4, 2, 1)


def review_kd(student_maps: Sequence[chex.Array], teacher_maps: Sequence[chex.Array]) -> chex.Array:
    r"""Hierarchical context loss, summed over pairs of maps.

    For each pair, with :math:`P_n` the average pooling to n x n,

    .. math:: \frac{\mathrm{MSE}(s, t) + \frac{1}{2} \mathrm{MSE}(P_4 s, P_4 t)
        + \frac{1}{4} \mathrm{MSE}(P_2 s, P_2 t) + \frac{1}{8} \mathrm{MSE}(P_1 s, P_1 t)}
        {1 + \frac{1}{2} + \frac{1}{4} + \frac{1}{8}}

    A pooling that would not make the map smaller in both directions is left out, also from the
    divisor, and the next pooling takes its weight. The student's maps come from the method's fusion
    modules, which combine several stages and give maps of the teacher's shapes. The caller provides
    these modules.

    >>> review_kd([jnp.ones((2, 8, 8, 3))], [jnp.zeros((2, 8, 8, 3))]).tolist()
    [1.0, 1.0]

    Args:
      student_maps: maps ``[batch, height, width, channels]``, one for each stage.
      teacher_maps: as many maps, each with the shape of the student's. The loss is differentiable
        in both; if the teacher is fixed, the caller stops its gradient.

    Returns:
      ``[batch]`` float32.

    Raises:
      ValueError: if there are no maps, their numbers differ, or the shapes of a pair differ.

    References:
      Chen, Liu, Zhao, Jia, *Distilling Knowledge via Knowledge Review*, CVPR 2021, and the released
      code.
    """
    if len(student_maps) != len(teacher_maps) or not student_maps:
        raise ValueError(
            f"student_maps has {len(student_maps)} maps and teacher_maps {len(teacher_maps)}: "
            "both need the same number of maps, at least one"
        )
    for index, (student, teacher) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        if student.shape != teacher.shape or student.ndim != 4:
            raise ValueError(
                f"pair {index}: student_maps[{index}] has shape {student.shape} and "
                f"teacher_maps[{index}] {teacher.shape}: they must be equal, "
                "[batch, height, width, channels]"
            )
    pairs = zip(student_maps, teacher_maps, strict=True)
    return jnp.sum(jnp.stack([_at_all_scales(*pair) for pair in pairs]), axis=0)


def _at_all_scales(student: chex.Array, teacher: chex.Array) -> chex.Array:
    total, weight, weights = feature_mse(student, teacher), 1.0, 1.0
    for size in _SIZES:
        if size < min(student.shape[1:3]):
            weight /= 2
            weights += weight
            pooled = feature_mse(pool_to(student, size, size), pool_to(teacher, size, size))
            total += weight * pooled
    return total / weights

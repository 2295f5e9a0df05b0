"""Feature distillation: the distance between a student's and a teacher's feature maps."""

import chex
import jax.numpy as jnp


def feature_mse(student_map: chex.Array, teacher_map: chex.Array) -> chex.Array:
    """Mean squared error between two feature maps, one number per example.

    The mean runs over every axis but the first. If a student is narrower than its teacher, an
    adapter first brings its map to the teacher's number of channels (see
    :class:`kdjax.models.StudentEnsemble`).

    >>> feature_mse(jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3))).tolist()
    [1.0, 1.0]

    Args:
      student_map: ``[batch, ...]`` floats, usually ``[batch, height, width, channels]``.
      teacher_map: floats of the same shape. The function is differentiable in both; if the teacher
        is fixed, the caller stops its gradient.

    Returns:
      ``[batch]`` float32.

    Raises:
      ValueError: if the shapes differ.

    References:
      Walawalkar, Shen, Savvides, *Online Ensemble Model Compression using Knowledge Distillation*,
      ECCV 2020 (intermediate loss).
    """
    if student_map.shape != teacher_map.shape:
        raise ValueError(
            f"feature maps differ in shape: student {student_map.shape}, teacher "
            f"{teacher_map.shape}; adapt the student's channels first"
        )
    difference = jnp.asarray(student_map, jnp.float32) - jnp.asarray(teacher_map, jnp.float32)
    return jnp.mean(jnp.square(difference), axis=tuple(range(1, difference.ndim)))

"""Checks of arguments that several losses share."""

import chex
import jax
import jax.numpy as jnp

# Outside this range T^2, or logits divided by T, may leave the range of float32.
_LOWEST, _HIGHEST = 1e-3, 1e6


def check_temperature(temperature: chex.Numeric, least: float = _LOWEST) -> chex.Numeric:
    """Refuses a temperature that is not one number from ``least`` to 1e6; a traced one passes.

    Returns:
      The temperature, as a Python float, or as float32 if it is traced: its square may leave the
      range of float16.
    """
    if jnp.ndim(temperature):
        raise ValueError(f"temperature has shape {jnp.shape(temperature)}: it must be one number")
    if isinstance(temperature, jax.core.Tracer):
        return jnp.asarray(temperature, jnp.float32)
    value = float(temperature)
    if not least <= value <= _HIGHEST:
        raise ValueError(f"temperature is {temperature}: it must be from {least:g} to {_HIGHEST:g}")
    return value


def check_students_logits(logits: chex.Array) -> None:
    """Refuses logits that are not ``[students, batch, classes]``."""
    if jnp.ndim(logits) != 3:
        raise ValueError(
            f"logits have shape {jnp.shape(logits)}: expected [students, batch, classes]"
        )


def is_known(array: chex.Array) -> bool:
    """Whether the values can be read here: the array is not traced and lies on this process."""
    traced = isinstance(array, jax.core.Tracer)
    return not traced and getattr(array, "is_fully_addressable", True)


def class_indices(labels: chex.Array, classes: int) -> tuple[chex.Array, chex.Array]:
    """Checks integer labels; returns ``(indices, valid)``.

    A label out of range raises ValueError. Inside ``jit``, ``pmap`` or ``vmap`` the values of
    labels are not known: there a label out of range gets ``valid`` False and the index 0.
    """
    with jax.ensure_compile_time_eval():
        array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"labels have dtype {array.dtype}: they must be integers")
    if is_known(labels):
        with jax.ensure_compile_time_eval():
            flat = jnp.ravel(array)
            wrong = (flat < 0) | (flat >= classes)
            if bool(jnp.any(wrong)):
                position = int(jnp.argmax(wrong))
                raise ValueError(
                    f"labels hold {int(flat[position])} (entry {position}): with {classes} "
                    f"classes they must be in 0..{classes - 1}"
                )
    valid = (array >= 0) & (array < classes)
    return jnp.where(valid, array, 0), valid


def check_batches(student: chex.Array, teacher: chex.Array, name: str) -> None:
    """Refuses a student's and a teacher's array with different batch sizes.

    Args:
      student: ``[batch, ...]``.
      teacher: ``[batch, ...]``.
      name: the name of the arrays without ``student_`` and ``teacher_``, for error messages.
    """
    if student.ndim < 2 or teacher.ndim < 2 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"student_{name} has shape {student.shape} and teacher_{name} {teacher.shape}: both "
            "must be [batch, ...] with the same batch"
        )


def check_equal_shapes(student: chex.Array, teacher: chex.Array, name: str) -> None:
    """Refuses a student's and a teacher's array of different shapes.

    Args:
      student: an array of any shape.
      teacher: the teacher's array.
      name: the name of the arrays without ``student_`` and ``teacher_``, for error messages.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student_{name} has shape {student.shape} and teacher_{name} {teacher.shape}: they "
            "must be equal"
        )


def check_maps(**maps: chex.Array) -> None:
    """Refuses maps that are not ``[batch, height, width, channels]`` with one batch size."""
    for name, values in maps.items():
        if values.ndim != 4:
            raise ValueError(
                f"{name} has shape {values.shape}: it must be [batch, height, width, channels]"
            )
    if len({values.shape[0] for values in maps.values()}) > 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in maps.items())
        raise ValueError(f"maps differ in their batch size, the first axis: {shapes}")

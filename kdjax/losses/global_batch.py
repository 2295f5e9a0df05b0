"""Real rows and the rows of other devices, for losses that compare the rows of a batch.

With ``axis_name`` every device holds a share of the global batch, and returns values for its own
rows that depend on all rows. The training step is expected to differentiate, on each device, the
sum over that device's rows, and then to sum the parameters' gradients over the devices
(``jax.lax.psum``). The result is the gradient of the sum over the whole batch: when JAX
differentiates a gather, or a sum over devices, it also sends back the part of the gradient that
comes from the other devices' rows.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp

from kdjax.losses.arguments import check_equal_shapes, check_temperature


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of this device's share of a batch.

    Attributes:
      real: ``[batch]`` booleans; the other rows are padding, and their contents are ignored.
      axis_name: the mapped axis of devices that share the batch; None: this device has the whole
        batch.
    """

    real: chex.Array
    axis_name: str | None

    @classmethod
    def of(cls, batch: int, where: chex.Array | None, axis_name: str | None) -> "Rows":
        """Creates the rows, of which those that ``where`` marks are real.

        Args:
          batch: number of rows on this device.
          where: ``[batch]`` booleans, True for real rows; None: all are real.
          axis_name: the mapped axis of devices that share the batch; None: there is one device.

        Raises:
          ValueError: if ``where`` is not ``[batch]`` booleans.
        """
        if where is None:
            return cls(jnp.ones((batch,), bool), axis_name)
        where = jnp.asarray(where)
        if where.shape != (batch,) or where.dtype != bool:
            raise ValueError(
                f"where has shape {where.shape} and dtype {where.dtype}: it must be [{batch}] "
                "booleans, one for each row"
            )
        return cls(where, axis_name)

    def keep(self, values: chex.Array) -> chex.Array:
        """The values ``[batch, ...]`` as float32, 0 in padded rows, which get no gradient."""
        real = self.real.reshape((-1,) + (1,) * (values.ndim - 1))
        return jnp.where(real, jnp.asarray(values, jnp.float32), 0.0)

    def flat(self, values: chex.Array) -> chex.Array:
        """The values ``[batch, ...]`` reshaped to ``[batch, n]`` float32, 0 in padded rows."""
        return self.keep(values.reshape(values.shape[0], math.prod(values.shape[1:])))

    def everywhere(self, values: chex.Array) -> chex.Array:
        """``[global batch, ...]``: the rows of all devices, in the order of the devices."""
        if self.axis_name is None:
            return values
        return jax.lax.all_gather(values, self.axis_name, axis=0, tiled=True)

    def total(self, values: chex.Array) -> chex.Array:
        """The sum over the rows of all devices; padded rows must be 0."""
        summed = jnp.sum(values, axis=0)
        return summed if self.axis_name is None else jax.lax.psum(summed, self.axis_name)

    def count(self) -> chex.Array:
        """The number of real rows on all devices, at least 1: a float32 scalar."""
        return jnp.maximum(self.total(self.real.astype(jnp.float32)), 1.0)

    def pairs(self) -> chex.Array:
        """``[batch, global batch]`` booleans: True if both rows are real and different."""
        batch = self.real.shape[0]
        everyone = self.everywhere(self.real)
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * batch
        own = first + jnp.arange(batch)
        other = own[:, None] != jnp.arange(everyone.shape[0])
        return self.real[:, None] & everyone & other


def softened(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    temperature: chex.Numeric,
    where: chex.Array | None,
    axis_name: str | None,
) -> tuple[Rows, chex.Array, chex.Array]:
    """The rows of a batch, and the softmax of its logits at a temperature; checks the arguments.

    Args:
      student_logits: ``[batch, classes]``.
      teacher_logits: the same of the teacher.
      temperature: T from 1e-3 to 1e6.
      where: as :meth:`Rows.of` takes it.
      axis_name: likewise.

    Returns:
      ``(rows, q, p)``: q of the student and p of the teacher, 0 in padded rows.

    Raises:
      ValueError: if the shapes differ or the temperature is not in its range.
    """
    temperature = check_temperature(temperature)
    check_equal_shapes(student_logits, teacher_logits, "logits")
    rows = Rows.of(student_logits.shape[0], where, axis_name)
    q = rows.keep(jax.nn.softmax(rows.keep(student_logits) / temperature))
    p = rows.keep(jax.nn.softmax(rows.keep(teacher_logits) / temperature))
    return rows, q, p

"""Contrastive representation distillation: embeddings, and their memory for the training set."""

from typing import Any

import chex
import flax.linen as nn
import jax

from kdjax import losses
from kdjax.config import Parts
from kdjax.losses import CRDMemory
from kdjax.models.execution import Mode


class Embeddings(nn.Module):
    """Two linear maps to embeddings: of the student's and of the teacher's pooled features.

    Attributes:
      dim: the size of an embedding.

    References:
      Tian, Krishnan, Isola, ICLR 2020, section 3.1.
    """

    dim: int = 128

    @nn.compact
    def __call__(
        self, student: chex.Array, teacher: chex.Array, mode: Mode
    ) -> tuple[chex.Array, chex.Array]:
        """Returns both embeddings, each ``[batch, dim]`` float32.

        Args:
          student: ``[batch, channels]`` float32.
          teacher: ``[batch, teacher channels]`` float32.
          mode: not used.
        """
        del mode
        return nn.Dense(self.dim, name="student")(student), nn.Dense(self.dim, name="teacher")(
            teacher
        )


def parts(*, dim: int, negatives: int, momentum: float, temperature: float) -> Parts:
    """The term's module, loss and memory.

    >>> parts(dim=4, negatives=2, momentum=0.5, temperature=0.07).module.dim
    4

    Args:
      dim: the size of an embedding.
      negatives: the largest number of other examples that each example is contrasted with.
      momentum: the share of an embedding in the memory that a step keeps.
      temperature: the temperature of the scores.
    """

    def loss(
        student: chex.Array, teacher: chex.Array, *, memory: CRDMemory, examples: Any
    ) -> tuple[chex.Array, CRDMemory]:
        size = memory.student.shape[0]

        def others(key: chex.PRNGKey, index: chex.Array) -> chex.Array:
            return losses.crd_negatives(key, index[None], examples=size, count=negatives)[0]

        # Use each example's own key: the draws are then the same on any number of devices.
        drawn = jax.vmap(others)(examples.keys, examples.indices)
        given = (student, teacher, memory, examples.indices, drawn)
        rows = {"where": examples.mask, "axis_name": examples.devices}
        values = losses.crd(*given, temperature=temperature, **rows)
        student, teacher, memory, *places = given
        after = losses.crd_update(
            memory, student, teacher, *places, momentum=momentum, temperature=temperature, **rows
        )
        return values, after

    def memory(student: Any, teacher: Any, *, examples: int, key: chex.PRNGKey) -> CRDMemory:
        del teacher
        return losses.crd_memory(key, examples=examples, dim=student.shape[-1])

    return Parts(loss, Embeddings(dim), memory)

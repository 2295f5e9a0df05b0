"""Fixed teachers of any family: their outputs for a batch, and which maps teach which.

Blocks are paired by depth. Let k be the smaller of the two numbers of blocks. For i from 1 to k,
pair i has block ``ceil(i n / k)`` of each network, where n is this network's number of blocks. So
the last blocks are a pair, and the network with fewer blocks has all its blocks in pairs; those of
the other network are evenly spaced. With 3 and 7 blocks the pairs are 1-3, 2-5, 3-7.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from kdjax.data.batches import Batch
from kdjax.losses.pooling import pool_to_smaller
from kdjax.models import Architecture, Outputs
from kdjax.models.ensemble import feature_shapes
from kdjax.models.initialize import variable_shapes
from kdjax.widths import WidthVector


class TeacherNetwork(NamedTuple):
    """A teacher without its variables.

    Attributes:
      architecture: an architecture with the students' number of classes.
      widths: the network's widths.
      scale, shift: one number per channel. ``images * scale + shift`` turns images that are
        normalised for the students into images that are normalised for the teacher. Empty: the
        teacher uses the students' normalisation.
    """

    architecture: Architecture
    widths: WidthVector
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class FixedTeachers:
    """One teacher or several, in evaluation mode; they are not part of the state.

    Attributes:
      networks: the teachers' networks.
      dtype: the dtype of the computation.
      cached: whether the teachers' averaged logits are looked up instead of computed. Then
        ``teacher`` in :meth:`for_batch` is ``[examples, classes]``, indexed by example number.
    """

    networks: tuple[TeacherNetwork, ...]
    dtype: Any = jnp.float32
    cached: bool = False

    def for_batch(self, teacher: Any, batch: Batch) -> Any:
        """The ``teacher`` of :meth:`__call__`: variables, or the cached logits of this batch."""
        return teacher[batch.indices] if self.cached else teacher

    def __call__(self, teacher: Any, images: chex.Array) -> Outputs:
        """Returns the averaged logits, and the feature maps if a single teacher computes them.

        Args:
          teacher: the teacher's variables, a tuple of variables of several teachers, or cached
            logits ``[batch, classes]``.
          images: ``[batch, height, width, channels]`` floats, normalised for the students.
        """
        if self.cached:
            return Outputs(teacher, ())
        outputs = self.each(teacher, images)
        if len(outputs) == 1:
            return outputs[0]
        return Outputs(jnp.mean(jnp.stack([each.logits for each in outputs]), axis=0), ())

    def each(self, teacher: Any, images: chex.Array) -> list[Outputs]:
        """The outputs of each teacher; the arguments are those of :meth:`__call__`."""
        variables = teacher if isinstance(teacher, tuple) else (teacher,)
        outputs: list[Any] = []
        for network, own in zip(self.networks, variables, strict=True):
            seen = images
            if network.scale:
                scale, shift = (
                    jnp.asarray(v, images.dtype) for v in (network.scale, network.shift)
                )
                seen = images * scale + shift
            module = network.architecture.build(network.widths, dtype=self.dtype)
            outputs.append(module.apply(own, seen, train=False))
        return outputs

    def shapes(self, image_shape: tuple[int, int, int]) -> Any:
        """The shapes of the variables that :meth:`__call__` takes.

        Args:
          image_shape: (height, width, channels) of the images.
        """
        trees = tuple(
            variable_shapes(network.architecture.build(network.widths), image_shape)
            for network in self.networks
        )
        return trees[0] if len(trees) == 1 else trees

    def channels(
        self, student_blocks: int, image_shape: tuple[int, int, int]
    ) -> tuple[int | None, ...]:
        """For each block of a student, the channels of the teacher's map that teaches it, or None.

        Args:
          student_blocks: the number of blocks of a student.
          image_shape: (height, width, channels) of the images.
        """
        (network,) = self.networks
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        shapes = feature_shapes(network.architecture.build(network.widths), images)
        taught: list[int | None] = [None] * student_blocks
        for own, other in block_pairs(student_blocks, len(shapes)):
            taught[own] = shapes[other][-1]
        return tuple(taught)


def block_pairs(student_blocks: int, teacher_blocks: int) -> list[tuple[int, int]]:
    """The pairs (student block, teacher block), in order; blocks are numbered from 0.

    >>> block_pairs(3, 7)
    [(0, 2), (1, 4), (2, 6)]
    """
    fewer = min(student_blocks, teacher_blocks)
    return [
        (-(-number * student_blocks // fewer) - 1, -(-number * teacher_blocks // fewer) - 1)
        for number in range(1, fewer + 1)
    ]


def map_pairs(
    student: Sequence[Any], teacher: Sequence[chex.Array], *, equal_sizes: bool
) -> list[tuple[chex.Array, chex.Array]]:
    """Pairs each of a student's maps with the teacher's map of the same relative depth.

    Args:
      student: the maps after each block, ``[batch, height, width, channels]``; None where no map
        teaches.
      teacher: the maps after each block.
      equal_sizes: whether to average-pool the larger map of a pair to the smaller one's size.
    """
    pairs = []
    for own, other in block_pairs(len(student), len(teacher)):
        first, second = student[own], teacher[other]
        if equal_sizes and first.shape[1:3] != second.shape[1:3]:
            first, second = pool_to_smaller(first, second)
        pairs.append((first, second))
    return pairs

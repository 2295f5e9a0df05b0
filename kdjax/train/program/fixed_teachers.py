"""Fixed teachers of any family: what they say of a batch, and which maps teach which.

Blocks are paired by depth. With k the smaller of the two numbers of blocks, pair i of k joins block
``ceil(i n / k)`` of each network with n blocks: the last with the last, all blocks of the network
that has fewer, and evenly spaced ones of the other. Of 3 and 7 blocks the pairs are 1-3, 2-5, 3-7.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax.config import growing
from kdjax.data.batches import Batch
from kdjax.losses.pooling import pool_to_smaller
from kdjax.models import Architecture, Outputs
from kdjax.models.ensemble import feature_shapes
from kdjax.train.program.optimizer import grown_weights
from kdjax.widths import WidthVector


class TeacherNetwork(NamedTuple):
    """A teacher without its variables.

    Attributes:
      architecture: with the students' classes.
      widths: of the network.
      scale, shift: per channel: ``images * scale + shift`` are the students' normalised images as
        the teacher was trained to see them; empty: they are the same.
    """

    architecture: Architecture
    widths: WidthVector
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class FixedTeachers:
    """One teacher or several, in evaluation mode; they are no part of the state.

    Attributes:
      networks: of the teachers.
      dtype: of the computation.
      cached: whether their averaged logits are looked up instead of computed. Then the ``teacher``
        of a step is ``[examples, classes]``, by number of the example.
    """

    networks: tuple[TeacherNetwork, ...]
    dtype: Any = jnp.float32
    cached: bool = False

    def recall(self, teacher: Any, batch: Batch) -> Any:
        """What :meth:`__call__` takes of the teachers: variables, or this batch's kept logits."""
        return teacher[batch.indices] if self.cached else teacher

    def __call__(self, teacher: Any, images: chex.Array) -> Outputs:
        """Averaged logits; and the feature maps, if there is one teacher.

        Args:
          teacher: variables, a tuple of them of several teachers; or logits ``[batch, classes]``.
          images: ``[batch, height, width, channels]`` floats, normalised for the students.
        """
        if self.cached:
            return Outputs(teacher, ())
        outputs = self.each(teacher, images)
        if len(outputs) == 1:
            return outputs[0]
        return Outputs(jnp.mean(jnp.stack([each.logits for each in outputs]), axis=0), ())

    def each(self, teacher: Any, images: chex.Array) -> list[Outputs]:
        """What each teacher makes of the images; arguments as of :meth:`__call__`."""
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

    def channels(
        self, student_blocks: int, image_shape: tuple[int, int, int]
    ) -> tuple[int | None, ...]:
        """For each block of a student the channels of the teacher's map that teaches it.

        Args:
          student_blocks: how many there are.
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
    """Numbers from 0 of the blocks that are paired, in order.

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
    """A student's maps, each with the one of its teacher that is as deep.

    Args:
      student: after each block, ``[batch, height, width, channels]``; None where nothing teaches.
      teacher: after each block.
      equal_sizes: average the larger map of a pair to the smaller one's size.
    """
    pairs = []
    for own, other in block_pairs(len(student), len(teacher)):
        first, second = student[own], teacher[other]
        if equal_sizes and first.shape[1:3] != second.shape[1:3]:
            first, second = pool_to_smaller(first, second)
        pairs.append((first, second))
    return pairs


def weights_of(
    config: ml_collections.ConfigDict, distilled: Sequence[bool], steps_per_epoch: int
) -> Callable[[chex.Array], dict[str, Any]]:
    """Step -> ``[students]`` weights of each term; a student without a teacher has hard alone, 1.

    Args:
      config: of the stage; its ``weights``, ``weight_ramp`` and ``epochs``.
      distilled: for each student whether it has the teacher.
      steps_per_epoch: training steps.
    """
    if not growing(config):
        constant = {
            term: np.where(distilled, weight, float(term == "hard")).astype(np.float32)
            for term, weight in config.weights.items()
        }
        return lambda step: constant
    grow = grown_weights(config, steps_per_epoch)

    def weights(step: chex.Array) -> dict[str, chex.Array]:
        grown: Mapping[str, Any] = {"hard": jnp.float32(0.0)} | grow(step)
        return {
            term: jnp.where(np.asarray(distilled), weight, np.float32(term == "hard"))
            for term, weight in grown.items()
        }

    return weights


def with_labels(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration with the term of the labels switched on, whatever it weighs."""
    if config.weights.hard > 0:
        return config
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.weights.hard = 1.0
    return changed

"""What terms read from students and teachers: the arguments of their losses."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from kdjax.models import Outputs
from kdjax.train.program.fixed_teachers import map_pairs

# For each student, the pairs (student's map, teacher's map) of all blocks; None for a student
# without a teacher.
MapPairs = Sequence[Sequence[tuple[chex.Array, chex.Array]] | None]

# For each student, the arguments of a loss in each call; None for a student without a teacher.
Calls = Sequence[Sequence[tuple[Any, ...]] | None]


class Taps(NamedTuple):
    """What terms may read from students and teachers; no gradient flows into the teachers.

    Attributes:
      logits: ``[students, batch, classes]``.
      teacher_logits: ``[students or 1, teachers, batch, classes]``: the logits that teach each
        student; with several teachers, the mean of the losses counts.
      maps: pairs of unchanged maps.
      adapted: pairs in which the student's map has been brought to the teacher's channels.
      distances: the mean squared distances of the adapted pairs: for each block those of students
        2..S, ``[students - 1, batch]``. Empty if the module has not computed them.
    """

    logits: chex.Array
    teacher_logits: chex.Array
    maps: MapPairs = ()
    adapted: MapPairs = ()
    distances: Sequence[chex.Array] = ()


class TaughtOutputs(NamedTuple):
    """The outputs of students and of their fixed teacher.

    Attributes:
      logits: ``[students, batch, classes]`` float32.
      features: for each block, a tuple with each student's map.
      adapted: the same with the teacher's channels; None for students that are not taught.
      teacher: the teacher's :class:`kdjax.models.Outputs`.
    """

    logits: chex.Array
    features: tuple[tuple[chex.Array, ...], ...]
    adapted: tuple[tuple[chex.Array | None, ...], ...]
    teacher: Outputs


def ensemble_taps(outputs: Outputs, teacher_logits: chex.Array) -> Taps:
    """The taps of an ensemble, in which the pivot's feature maps teach the other students.

    Args:
      outputs: the outputs of a :class:`kdjax.models.StudentEnsemble`.
      teacher_logits: ``[students or 1, teachers, batch, classes]``: the logits that teach each
        student.
    """
    students = range(1, outputs.logits.shape[0])
    pivot = [jax.lax.stop_gradient(maps[0]) for maps in outputs.features]
    maps = [
        [(block[index], target) for block, target in zip(outputs.features, pivot, strict=True)]
        for index in students
    ]
    adapted = [
        [(block[index - 1], target) for block, target in zip(outputs.adapted, pivot, strict=True)]
        for index in students
    ]
    return Taps(outputs.logits, teacher_logits, [None, *maps], [None, *adapted], outputs.distances)


def teacher_taps(outputs: TaughtOutputs, distilled: Sequence[bool]) -> Taps:
    """The taps of students with a fixed teacher; blocks are paired by depth.

    Args:
      outputs: the outputs of the students and of the teacher.
      distilled: for each student, whether the teacher teaches it.
    """
    teaching = jax.lax.stop_gradient(outputs.teacher)

    def pairs(
        blocks: Sequence[Sequence[Any]], index: int, equal_sizes: bool = False
    ) -> list[tuple[Any, Any]] | None:
        if not distilled[index]:
            return None
        own = [maps[index] for maps in blocks]
        return map_pairs(own, teaching.features, equal_sizes=equal_sizes)

    students = range(len(distilled))
    return Taps(
        outputs.logits,
        teaching.logits[None, None],
        [pairs(outputs.features, index) for index in students],
        [pairs(outputs.adapted, index, equal_sizes=True) for index in students],
    )


def calls(reads: str, taps: Taps) -> Calls:
    """For each student, the arguments of a loss in each call; the calls' results are summed.

    Args:
      reads: which maps the term reads, by a name of :class:`kdjax.config.Term`.
      taps: the logits and maps that terms may read.
    """
    pairs = taps.adapted if reads in ADAPTED else taps.maps
    return [None if own is None else _OF_PAIRS[reads](own) for own in pairs]


def _neighbours(own: Sequence[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
    pairs = itertools.pairwise(own)
    return [(first[0], second[0], first[1], second[1]) for first, second in pairs]


def _sequences(own: Sequence[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(zip(*own, strict=True))]


def _pooled(own: Sequence[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(jnp.mean(each, axis=(1, 2), dtype=jnp.float32) for each in own[-1])]


_OF_PAIRS: Mapping[str, Callable[[Sequence[tuple[Any, Any]]], list[tuple[Any, ...]]]] = {
    "maps": list,
    "adapted maps": list,
    "last map": lambda own: [own[-1]],
    "all maps": _sequences,
    "map sequence": _sequences,
    "map pairs": _neighbours,
    "embedding": _pooled,
}

ADAPTED = frozenset({"adapted maps", "map sequence", "map pairs"})

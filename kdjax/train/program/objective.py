"""The objective: the terms that are switched on, each computed once and added by its weight."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections

from kdjax import config as configuration
from kdjax import losses
from kdjax.config import Term

Terms = dict[str, chex.Array]
# For each student the pairs (its map, its teacher's) of all blocks; None for one without a teacher.
MapPairs = Sequence[Sequence[tuple[chex.Array, chex.Array]] | None]


class Taps(NamedTuple):
    """What terms may read of students and their teachers; nothing flows back into teachers.

    Attributes:
      logits: ``[students, batch, classes]``.
      teacher_logits: ``[students or 1, teachers, batch, classes]``: what each student is taught; of
        several teachers the mean of the losses counts.
      maps: pairs of maps as they are.
      adapted: pairs whose student's map has been brought to the teacher's channels.
    """

    logits: chex.Array
    teacher_logits: chex.Array
    maps: MapPairs = ()
    adapted: MapPairs = ()


class Examples(NamedTuple):
    """The examples that the taps belong to.

    Attributes:
      labels: ``[batch]`` integers or ``[batch, classes]`` distributions.
      mask: ``[batch]`` booleans, False for padding.
      axis_name: devices whose examples a term sees that judges a batch together; None: its own.
      devices: the mapped axis of all devices that share the batch, whatever ``axis_name`` says;
        what a term remembers has to be equal on all of them. None: there is one.
      indices: ``[batch]`` int32, numbers of the examples in the training split; of padding 0.
      key: for random numbers, of the run and the step, equal on all devices; :attr:`keys` differ.
    """

    labels: chex.Array
    mask: chex.Array
    axis_name: str | None
    devices: str | None = None
    indices: Any = None
    key: Any = None

    @property
    def keys(self) -> chex.PRNGKey:
        """``[batch]`` keys, of each example its own, whichever device has it."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(self.key, self.indices)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The terms of a configuration that are switched on.

    Attributes:
      terms: name -> ``(taps, examples) -> [students, batch]``.
      reads: what they read, as :class:`kdjax.config.Term` names it.
    """

    terms: Mapping[str, Callable[[Taps, Examples], chex.Array]]
    reads: frozenset[str]

    @property
    def adapts(self) -> bool:
        """Whether any term needs the students' maps at their teacher's channels."""
        return bool(self.reads & {"adapted maps", "map sequence", "map pairs"})

    def __call__(
        self, taps: Taps, examples: Examples, weights: Mapping[str, chex.Array]
    ) -> tuple[chex.Array, Terms]:
        """``(total [batch], {term: [students, batch]})``; terms without their weights.

        Args:
          taps: of students and teachers.
          examples: they belong to.
          weights: of each term, a number or ``[students]`` numbers.
        """
        found = {name: term(taps, examples) for name, term in self.terms.items()}
        total = jnp.zeros(examples.mask.shape, jnp.float32)
        for name, values in found.items():
            if jnp.ndim(weights[name]):
                total += jnp.tensordot(jnp.asarray(weights[name], jnp.float32), values, axes=1)
            else:
                total += weights[name] * jnp.sum(values, axis=0)
        return total, found


def objective(config: ml_collections.ConfigDict) -> Objective:
    """The objective that ``config.weights`` and the terms' own fields ask for."""
    active = [name for name, weight in config.weights.items() if weight > 0]
    table = {name: configuration.TERMS[name] for name in active}
    terms = {
        name: functools.partial(_OF[term.reads], _loss(name, term, config), term.coupled)
        for name, term in table.items()
    }
    return Objective(terms, frozenset(term.reads for term in table.values()))


def _loss(name: str, term: Term, config: ml_collections.ConfigDict) -> Callable[..., chex.Array]:
    """A term's loss with its fields."""
    loss = term.loss or name
    function = getattr(losses, loss) if isinstance(loss, str) else loss
    fields = {field: config[name][field] for field in term.fields}
    fields |= {argument: config[field] for field, argument in term.shared_fields.items()}
    function = functools.partial(function, **fields) if fields else function
    if config.standardize_logits and term.reads in ("logits", "logits and labels"):
        return lambda student, teacher, *rest, **more: function(
            losses.standardize_logits(student), losses.standardize_logits(teacher), *rest, **more
        )
    return function


def _together(coupled: bool, examples: Examples) -> dict[str, Any]:
    return {"where": examples.mask, "axis_name": examples.axis_name} if coupled else {}


def _of_labels(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    del coupled
    return loss(taps.logits, examples.labels)


def _of_logits(
    loss, coupled: bool, taps: Taps, examples: Examples, labels: tuple[chex.Array, ...] = ()
) -> chex.Array:
    more = _together(coupled, examples)

    def of_student(logits: chex.Array, teachers: chex.Array) -> chex.Array:
        by_teacher = jax.vmap(lambda teacher: loss(logits, teacher, *labels, **more))(teachers)
        return jnp.mean(by_teacher, axis=0)

    teachers = taps.teacher_logits
    if teachers.shape[0] == 1:
        return jax.vmap(of_student, in_axes=(0, None))(taps.logits, teachers[0])
    return jax.vmap(of_student)(taps.logits, teachers)


def _of_logits_and_labels(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    return _of_logits(loss, coupled, taps, examples, (examples.labels,))


def _of_pairs(
    pairs: MapPairs, of_student: Callable[[Any], chex.Array], examples: Examples
) -> chex.Array:
    """One row for each student: its loss, or 0 if nothing teaches it."""
    nothing = jnp.zeros(examples.mask.shape, jnp.float32)
    return jnp.stack([nothing if own is None else of_student(own) for own in pairs])


def _of_maps(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    more = _together(coupled, examples)

    def of_student(own):
        return sum(loss(student, teacher, **more) for student, teacher in own)

    return _of_pairs(taps.maps, of_student, examples)


def _of_adapted_maps(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    return _of_maps(loss, coupled, taps._replace(maps=taps.adapted), examples)


def _of_last_map(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    more = _together(coupled, examples)
    return _of_pairs(taps.maps, lambda own: loss(*own[-1], **more), examples)


def _of_map_sequence(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    more = _together(coupled, examples)

    def of_student(own):
        students, teachers = zip(*own, strict=True)
        return loss(students, teachers, **more)

    return _of_pairs(taps.adapted, of_student, examples)


def _of_map_pairs(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    more = _together(coupled, examples)

    def of_student(own):
        neighbours = itertools.pairwise(own)
        return sum(
            loss(first[0], second[0], first[1], second[1], **more) for first, second in neighbours
        )

    return _of_pairs(taps.adapted, of_student, examples)


def _of_embedding(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    more = _together(coupled, examples)

    def of_student(own):
        pooled = (jnp.mean(each, axis=(1, 2), dtype=jnp.float32) for each in own[-1])
        return loss(*pooled, **more)

    return _of_pairs(taps.maps, of_student, examples)


_OF: Mapping[str, Callable[..., chex.Array]] = {
    "labels": _of_labels,
    "logits": _of_logits,
    "logits and labels": _of_logits_and_labels,
    "maps": _of_maps,
    "adapted maps": _of_adapted_maps,
    "last map": _of_last_map,
    "map sequence": _of_map_sequence,
    "map pairs": _of_map_pairs,
    "embedding": _of_embedding,
}

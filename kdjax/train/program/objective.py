"""The objective: each term that is switched on is computed once and added with its weight."""

import dataclasses
import functools
import importlib
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections

from kdjax import config as configuration
from kdjax import losses
from kdjax.config import Parts, Term
from kdjax.config.terms import TEACHER_LOGITS
from kdjax.train.program import reading, term_modules
from kdjax.train.program.reading import Calls, Taps
from kdjax.train.program.term_modules import TermMemories

Terms = dict[str, chex.Array]


class Examples(NamedTuple):
    """The examples that the taps belong to.

    Attributes:
      labels: ``[batch]`` integers or ``[batch, classes]`` distributions.
      mask: ``[batch]`` booleans, False for padding.
      axis_name: the mapped axis of the devices whose examples are seen by a loss that compares the
        examples of a batch; None: it sees only those of its own device.
      devices: the mapped axis of all devices that share the batch, whatever ``axis_name`` says;
        a term's memory has to be equal on all of them. None: there is one device.
      indices: ``[batch]`` int32, the numbers of the examples in the training split; 0 for padding.
      key: the random key of this run and step, equal on all devices; :attr:`keys` has one key for
        each example.
    """

    labels: chex.Array
    mask: chex.Array
    axis_name: str | None
    devices: str | None = None
    indices: Any = None
    key: Any = None

    @property
    def keys(self) -> chex.PRNGKey:
        """``[batch]`` keys, one for each example; they do not depend on the example's device."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(self.key, self.indices)


class LossOutput(NamedTuple):
    """What an objective returns for a batch.

    Attributes:
      total: ``[batch]``, to be averaged and minimised.
      terms: name -> ``[students, batch]``, without the terms' weights.
      memory: the terms' memories for the next step.
    """

    total: chex.Array
    terms: Terms
    memory: TermMemories


class LossError(ValueError):
    """A user's loss that fails or does not return what it should; the message names its term."""


@dataclasses.dataclass(frozen=True)
class _Active:
    """A term whose fields are filled in: its loss, what it reads, and its parts if it has any."""

    loss: Callable[..., Any]
    reads: str
    coupled: bool
    parts: Parts | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The terms of a configuration that are switched on, by name."""

    terms: Mapping[str, _Active]

    @property
    def adapts(self) -> bool:
        """Whether any term needs the students' maps at their teacher's channels."""
        return any(term.reads in reading.ADAPTED for term in self.terms.values())

    @property
    def parts(self) -> dict[str, Parts]:
        """The parts of the terms that have modules or a memory, by name."""
        return {name: term.parts for name, term in self.terms.items() if term.parts is not None}

    def read(self, taps: Taps) -> dict[str, Calls]:
        """What each term that has modules or a memory reads, by name."""
        return {name: reading.calls(self.terms[name].reads, taps) for name in self.parts}

    def __call__(
        self,
        taps: Taps,
        examples: Examples,
        weights: Mapping[str, chex.Array],
        memory: TermMemories | None = None,
        projected: Mapping[str, Calls] | None = None,
    ) -> LossOutput:
        """Computes each term and adds up the terms.

        Args:
          taps: the logits and maps that terms may read.
          examples: the examples that the taps belong to.
          weights: the weight of each term, a number or ``[students]`` numbers.
          memory: the memories of the terms that have one.
          projected: the outputs of the terms' modules
            (:func:`kdjax.train.program.term_modules.run_modules`).
        """
        found: Terms = {}
        after: TermMemories = {}
        for name, term in self.terms.items():
            if term.reads in _OF_LOGITS:
                loss = _per_example(name, term.loss)
                found[name] = _OF_LOGITS[term.reads](loss, term.coupled, taps, examples)
                continue
            adapted = term.reads == "adapted maps"
            if adapted and term.loss is losses.feature_mse and taps.distances:
                # The pivot teaches the others and has no distance itself: its row is 0.
                found[name] = jnp.pad(sum(taps.distances), ((1, 0), (0, 0)))
                continue
            given = (projected or {}).get(name) or reading.calls(term.reads, taps)
            before = None if term.parts is None or term.parts.memory is None else memory or {}
            values, new = _of_calls(name, term, given, examples, before)
            found[name] = values
            after.update(new)
        total = jnp.zeros(examples.mask.shape, jnp.float32)
        for name, values in found.items():
            if jnp.ndim(weights[name]):
                total += jnp.tensordot(jnp.asarray(weights[name], jnp.float32), values, axes=1)
            else:
                total += weights[name] * jnp.sum(values, axis=0)
        return LossOutput(total, found, after)


def objective(config: ml_collections.ConfigDict) -> Objective:
    """The objective that ``config.weights`` and the terms' own fields ask for."""
    return Objective(
        {
            name: _active(name, configuration.TERMS[name], config)
            for name, weight in config.weights.items()
            if weight > 0
        }
    )


def _active(name: str, term: Term, config: ml_collections.ConfigDict) -> _Active:
    """A term whose fields are filled in from the configuration."""
    fields = {field: config[name][field] for field in term.fields}
    fields |= {argument: config[field] for field, argument in term.shared_fields.items()}
    if term.parts:
        function = term.parts
        if isinstance(function, str):
            function = importlib.import_module(f"kdjax.train.terms.{function}").parts
        parts = function(**fields)
        if callable(term.parts):
            parts = parts._replace(loss=_named(name, parts.loss))
        return _Active(parts.loss, term.reads, term.coupled, parts)
    loss = term.loss or name
    if isinstance(loss, str) and not hasattr(losses, loss):
        raise LossError(f"the loss of config.weights.{name} is {loss!r}: kdjax.losses has none")
    function = getattr(losses, loss) if isinstance(loss, str) else loss
    function = functools.partial(function, **fields) if fields else function
    if callable(loss):
        function = _named(name, function)
    if config.standardize_logits and term.reads in TEACHER_LOGITS:
        return _Active(_standardized(function), term.reads, term.coupled, None)
    return _Active(function, term.reads, term.coupled, None)


def _named(name: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a user's loss to name it, and the line that failed, in whatever it raises."""

    def named(*given: Any, **more: Any) -> Any:
        try:
            return loss(*given, **more)
        except Exception as error:
            function = loss
            while isinstance(function, functools.partial):
                function = function.func
            file = getattr(getattr(function, "__code__", None), "co_filename", "")
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == file
            ]
            place = f" ({file}, line {lines[-1]})" if lines else ""
            text = str(error).partition("\n")[0]
            raise LossError(
                f"the loss of config.weights.{name} raised {type(error).__name__}: {text}{place}"
            ) from error

    return named


def _standardized(loss: Callable[..., chex.Array]) -> Callable[..., chex.Array]:
    return lambda student, teacher, *rest, **more: loss(
        losses.standardize_logits(student), losses.standardize_logits(teacher), *rest, **more
    )


def _per_example(name: str, loss: Callable[..., chex.Array]) -> Callable[..., chex.Array]:
    """Wraps a loss to check that it returns one number per example, which users may forget."""

    def checked(student: chex.Array, *rest: Any, **more: Any) -> chex.Array:
        return _check_values(name, loss(student, *rest, **more), student.shape[:-1])

    return checked


def _check_values(name: str, values: Any, expected: tuple[int, ...]) -> chex.Array:
    found = getattr(values, "shape", None)
    if found != expected:
        what = f"shape {found}" if found is not None else repr(values)
        raise LossError(
            f"the loss of config.weights.{name} returned {what}: expected one number for each "
            f"example, shape {expected}"
        )
    return values


def _of_batch(coupled: bool, examples: Examples) -> dict[str, Any]:
    return {"where": examples.mask, "axis_name": examples.axis_name} if coupled else {}


def _of_labels(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    del coupled
    return loss(taps.logits, examples.labels)


def _of_logits(
    loss, coupled: bool, taps: Taps, examples: Examples, labels: tuple[chex.Array, ...] = ()
) -> chex.Array:
    more = _of_batch(coupled, examples)

    def of_student(logits: chex.Array, teachers: chex.Array) -> chex.Array:
        by_teacher = jax.vmap(lambda teacher: loss(logits, teacher, *labels, **more))(teachers)
        return jnp.mean(by_teacher, axis=0)

    teachers = taps.teacher_logits
    if teachers.shape[0] == 1:
        return jax.vmap(of_student, in_axes=(0, None))(taps.logits, teachers[0])
    return jax.vmap(of_student)(taps.logits, teachers)


def _of_logits_and_labels(loss, coupled: bool, taps: Taps, examples: Examples) -> chex.Array:
    return _of_logits(loss, coupled, taps, examples, (losses.likeliest_class(examples.labels),))


_OF_LOGITS: Mapping[str, Callable[..., chex.Array]] = {
    "labels": _of_labels,
    "logits": _of_logits,
    "logits and labels": _of_logits_and_labels,
}


def _of_calls(
    name: str, term: _Active, given: Calls, examples: Examples, memory: TermMemories | None
) -> tuple[chex.Array, TermMemories]:
    """Returns a term's values, ``[students, batch]``, and its memories after the step.

    The row of a student is the sum of its losses, or 0 if the student has no teacher.

    Args:
      name: the term's name.
      term: the term.
      given: the arguments of its loss, for each student and each call.
      examples: the examples of the batch.
      memory: the memories of all terms; None: this term has no memory.
    """
    more = _of_batch(term.coupled, examples)
    nothing = jnp.zeros(examples.mask.shape, jnp.float32)
    after: dict[tuple[str, ...], Any] = {}

    def of_call(arguments: tuple[Any, ...], place: tuple[str, ...]) -> chex.Array:
        if memory is None:
            return _check_values(name, term.loss(*arguments, **more), examples.mask.shape)
        before = term_modules.at(memory, place)
        values, new = term.loss(*arguments, memory=before, examples=examples, **more)
        after[place] = jax.lax.stop_gradient(new)
        return _check_values(name, values, examples.mask.shape)

    rows = [
        nothing
        if own is None or names is None
        else sum(of_call(each, (name, *place)) for each, place in zip(own, names, strict=True))
        for own, names in zip(given, term_modules.places(given), strict=True)
    ]
    return jnp.stack(rows), flax.traverse_util.unflatten_dict(after)

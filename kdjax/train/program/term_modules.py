"""The trained modules and the memories of terms: where they lie, how they start and how they run.

The modules' variables form a network ``terms`` next to the students: ``params["terms"][<term>]``
has the keys ``student_2``, ``student_3``, ... If a term has one module for every block, each of
these has the keys ``block1``, ``block2``, ... The state holds the memories in the same arrangement.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import models
from kdjax.config import Parts
from kdjax.models.execution import Mode
from kdjax.models.initialize import Start, start_of, start_of_call
from kdjax.models.normalization import BATCH_STATS
from kdjax.train.program.reading import Calls

# The key of all modules of terms. For the optimiser and for faults they count as one network,
# unless the layout counts them as parts of their students (``by_student``).
NETWORK = "terms"

TermMemories = dict[str, Any]


class InitialVariables(NamedTuple):
    """The variables and memories that a run starts from.

    Attributes:
      start: how the variables of all networks start.
      memories: place -> a function that takes a random key and returns the initial memory there.
    """

    start: Start
    memories: Mapping[tuple[str, ...], Any]


def with_terms(
    start: Start, terms: Mapping[str, Parts], read: Mapping[str, Calls], examples: int
) -> InitialVariables:
    """Adds the modules and memories of terms to a network's start.

    Args:
      start: the network's start.
      terms: name of each term -> its parts.
      read: name of each term -> the shapes of what it reads.
      examples: the number of examples in the training split.
    """
    shapes = flax.traverse_util.flatten_dict(start.shapes)
    initializers = dict(start.initializers)
    memories = {}
    for name, parts in terms.items():
        for place, arguments in _places(read[name]):
            if parts.module is not None:
                found, arguments = _start_of(parts.module, arguments)
                for path, leaf in flax.traverse_util.flatten_dict(found.shapes).items():
                    full = (path[0], NETWORK, name, *place, *path[1:])
                    shapes[full], initializers[full] = leaf, found.initializers[path]
            if parts.memory is not None:
                memories[(name, *place)] = _first(parts.memory, arguments, examples)
    return InitialVariables(
        Start(flax.traverse_util.unflatten_dict(shapes), initializers), memories
    )


def initial_memories(initial: InitialVariables, seed: int) -> TermMemories:
    """The terms' memories before the first step, on the host.

    Args:
      initial: the result of :func:`with_terms`.
      seed: the run's seed.
    """
    key = jax.random.key(seed)
    found = {}
    for place, first in initial.memories.items():
        own = jax.random.fold_in(key, zlib.crc32("/".join(place).encode()))
        found[place] = jax.tree.map(np.asarray, first(own))
    return flax.traverse_util.unflatten_dict(found)


def run_modules(
    terms: Mapping[str, Parts], read: Mapping[str, Calls], variables: Mapping[str, Any], mode: Mode
) -> tuple[dict[str, Calls], dict[str, Any]]:
    """Runs the terms' modules on what the terms read.

    Args:
      terms: name of each term -> its parts.
      read: name of each term -> what it reads.
      variables: the variables of all networks.
      mode: whether this is training, and how to compute.

    Returns:
      The modules' outputs, which the terms' losses take in place of what the terms read, and the
      modules' running statistics after this batch, nested as in ``batch_stats``.
    """
    found: dict[str, Calls] = {}
    statistics: dict[tuple[str, ...], Any] = {}
    for name, parts in terms.items():
        if parts.module is None:
            continue
        given = read[name]
        made: dict[tuple[str, ...], tuple[Any, ...]] = {}
        for place, arguments in _places(given):
            own = {kind: at(tree, (NETWORK, name, *place)) for kind, tree in variables.items()}
            made[place], updated = parts.module.apply(
                own, *arguments, mode=mode, mutable=[BATCH_STATS]
            )
            if updated.get(BATCH_STATS):
                statistics[(name, *place)] = updated[BATCH_STATS]
        found[name] = _replaced(given, made)
    nested = flax.traverse_util.unflatten_dict(statistics)
    return found, {NETWORK: nested} if nested else {}


def only(given: Calls) -> Any:
    """The single output of a term that has a single module."""
    ((made,),) = filter(None, given)
    return made[0]


def at(tree: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    """The subtree at a place, or an empty dictionary if there is none."""
    for name in place:
        tree = tree.get(name, {})
    return tree


def places(given: Calls) -> list[list[tuple[str, ...]] | None]:
    """The places of a term's modules and memories, arranged like the term's calls."""
    return [
        None
        if own is None
        else [
            (models.student_name(number), *((f"block{call}",) if len(own) > 1 else ()))
            for call in range(1, len(own) + 1)
        ]
        for number, own in enumerate(given, start=1)
    ]


def _places(given: Calls) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    for names, own in zip(places(given), given, strict=True):
        if names is not None and own is not None:
            yield from zip(names, own, strict=True)


def _replaced(given: Calls, made: Mapping[tuple[str, ...], tuple[Any, ...]]) -> Calls:
    return [None if own is None else [made[place] for place in own] for own in places(given)]


def _start_of(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Start, tuple[Any, ...]]:
    """A module's start, and the shapes of what it returns."""
    # Use running statistics: batch statistics are shared by mapped devices, and none exist here.
    mode = Mode(False, None, np.float32, None)
    found = start_of_call(module, *arguments, mode=mode)
    returned = jax.eval_shape(
        lambda variables, *given: module.apply(variables, *given, mode=mode),
        found.shapes,
        *arguments,
    )
    return found, returned


def _first(memory: Any, arguments: tuple[Any, ...], examples: int) -> Any:
    return lambda key: memory(*arguments, examples=examples, key=key)


class LossInputs(NamedTuple):
    """What the forward pass of a method gives to its loss.

    Attributes:
      logits: ``[students, batch, classes]`` float32.
      outputs: the outputs of the networks.
      projected: the outputs of the terms' modules, by term.
      copies: the logits of the averaged copies, if the teacher rule has copies.
    """

    logits: chex.Array
    outputs: Any
    projected: Mapping[str, Calls]
    copies: chex.Array | None = None


@dataclasses.dataclass(frozen=True)
class TermModules:
    """The modules and memories of the terms of a method.

    Attributes:
      parts: the parts of each term, by name.
      read: a function from the networks' outputs to what the terms read.
      fields: the fields of the networks' modules.
    """

    parts: Mapping[str, Parts]
    read: Callable[[Any], Mapping[str, Calls]]
    fields: Mapping[str, Any]

    def run(self, outputs: Any, variables: Any, stats: Any, mask: Any) -> tuple[LossInputs, Any]:
        """Runs the modules.

        Args:
          outputs: the outputs of the networks.
          variables: the variables of all networks and modules.
          stats: running statistics of the networks, after this batch.
          mask: ``[batch]`` booleans, False for padding.

        Returns:
          The inputs of the loss, and the running statistics of all networks and modules.
        """
        if not self.parts:
            return LossInputs(outputs.logits, outputs, {}), stats
        mode = Mode(True, mask, self.fields["dtype"], self.fields["bn_axis_name"])
        given, own = run_modules(self.parts, self.read(outputs), variables, mode)
        return LossInputs(outputs.logits, outputs, given), {**stats, **own}

    def initial_of(
        self, model: nn.Module, start: Callable[[chex.PRNGKey, chex.Array], tuple[Any, Any]]
    ) -> Callable[[tuple[int, int, int], int], InitialVariables]:
        """Returns the function for :attr:`kdjax.train.program.methods.Method.initial`.

        Args:
          model: the method's model.
          start: ``(key, images) -> (outputs, ...)``: makes new variables and runs the networks.
        """

        def initial(image_shape: tuple[int, int, int], examples: int) -> InitialVariables:
            read: Any = {}
            if self.parts:
                images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
                read = jax.eval_shape(
                    lambda key, images: self.read(start(key, images)[0]), jax.random.key(0), images
                )
            return with_terms(start_of(model, image_shape), self.parts, read, examples)

        return initial

"""What a training step needs to know about a method, and what all methods share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import chex
import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from kdjax.data.batches import Batch
from kdjax.models import Outputs
from kdjax.models.execution import Execution
from kdjax.models.normalization import BATCH_STATS
from kdjax.train.program import term_modules
from kdjax.train.program.objective import Examples, LossOutput
from kdjax.train.program.online_teacher import COPIES, Memory
from kdjax.train.program.state import TrainState
from kdjax.train.program.term_modules import InitialVariables, LossInputs

Weights = dict[str, chex.Array]


class Forward(Protocol):
    """The forward pass of a method, in training mode."""

    def __call__(
        self, variables: Any, teacher: Any, images: chex.Array, mask: chex.Array, key: Any = None
    ) -> tuple[LossInputs, Any]:
        """Returns what the loss takes, and the new running statistics.

        Args:
          variables: parameters and running statistics of all networks and modules of terms.
          teacher: variables of a fixed teacher, or its stored logits of this batch; for rule
            ``ema`` the parameters of the averaged copies; None for other methods.
          images: ``[batch, height, width, channels]``, normalised.
          mask: ``[batch]`` booleans, False for padding.
          key: the key for networks that drop parts at random; None: nothing is dropped.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Method:
    """What a training step needs to know about a method.

    Attributes:
      model: the module whose variables are trained.
      forward: the forward pass, in training mode.
      loss: ``(what forward returns for it, examples, weights, memory) -> LossOutput``.
      weights: step -> weight of each loss term.
      separate: whether the students must not influence each other.
      copies_decay: the largest decay of the averaged copies that teach (rule ``ema``). The
        parameters of the copies are then the ``teacher`` of :attr:`forward`. 0: there are no
        copies.
      teacher_weights: the share of each student in the average of all; None: equal shares.
      teacher_for_batch: ``(teacher, batch) -> teacher``: selects what :attr:`forward` gets of a
        fixed teacher.
      memory: the memory of the teacher rule before the first step
        (:mod:`kdjax.train.program.online_teacher`).
      initial: ``(image shape, training examples) -> InitialVariables``: the variables of the model
        and of the terms' modules, and the terms' memories.
      observe: ``(state, metrics) -> further metrics``, called after each step with the new state.
    """

    model: nn.Module
    forward: Forward
    loss: Callable[[LossInputs, Examples, Weights, Memory], LossOutput]
    weights: Callable[[chex.Array], Weights]
    separate: bool
    initial: Callable[[tuple[int, int, int], int], InitialVariables]
    copies_decay: float = 0.0
    teacher_weights: Sequence[float] | None = None
    teacher_for_batch: Callable[[Any, Batch], Any] = lambda teacher, _: teacher
    memory: Memory = dataclasses.field(default_factory=dict)
    observe: Callable[[TrainState, Mapping[str, Any]], dict[str, Any]] = lambda *_: {}


def first_memory(
    method: Method, initial: InitialVariables, params: Any, seed: int
) -> dict[str, Any]:
    """The memory of a training state before the first step.

    Args:
      method: the method.
      initial: what its :attr:`Method.initial` returned.
      params: the first parameters, from which averaged copies start.
      seed: the run's seed.
    """
    memory = dict(method.memory)
    if initial.memories:
        memory[term_modules.NETWORK] = term_modules.initial_memories(initial, seed)
    if method.copies_decay:
        memory[COPIES] = params
    return memory


def module_fields(
    config: ml_collections.ConfigDict, axis_name: str | None, execution: Execution
) -> dict[str, Any]:
    """The fields of a method's module.

    Args:
      config: the experiment's configuration.
      axis_name: the mapped axis of the devices; None: there is one device.
      execution: how the students run.
    """
    return {
        "dtype": jnp.dtype(config.compute.dtype),
        "bn_axis_name": axis_name if config.compute.batch_norm == "global" else None,
        "execution": execution,
    }


def apply_training(
    model: nn.Module, variables: Any, images: chex.Array, mask: chex.Array, key: Any
) -> tuple[Outputs, Any]:
    """Returns the outputs in training mode, and the new running statistics.

    Args:
      model: the model of a method.
      variables: the model's parameters and running statistics.
      images: ``[batch, height, width, channels]``, normalised.
      mask: ``[batch]`` booleans, False for padding.
      key: the key for networks that drop parts at random; None: nothing is dropped.
    """
    drops = key is not None and model.architecture.drops
    outputs, updated = model.apply(
        variables,
        images,
        train=True,
        mask=mask,
        mutable=[BATCH_STATS],
        rngs={"dropout": key} if drops else None,
    )
    return outputs, updated.get(BATCH_STATS, {})


def shares(config: ml_collections.ConfigDict) -> tuple[float, ...] | None:
    """The students' shares in the average of all, or None; only the task ``train`` sets them."""
    return tuple(config.get("teacher_weights", ())) or None

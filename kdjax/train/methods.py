"""What is trained: students distilled as an ensemble, each by itself, or from a fixed teacher."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import losses
from kdjax.models import Architecture, IndependentNetworks, Outputs, StudentEnsemble
from kdjax.models.execution import PLAIN, Execution
from kdjax.models.layers import BATCH_STATS
from kdjax.train.optimizer import weight_ramps
from kdjax.train.state import TrainState
from kdjax.widths import WidthVector

Weights = dict[str, chex.Array]
Terms = dict[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """What a training step needs to know of a method.

    Attributes:
      model: the module whose variables are trained.
      forward: ``(variables, teacher, images, mask) -> (outputs, new batch_stats)``, in training
        mode; ``outputs.logits`` is ``[students, batch, classes]``.
      loss: ``(outputs, labels, weights) -> (total [batch], {term: [students, batch]})``.
      weights: step -> weight of each loss term.
      separate: whether the students must not influence each other.
      teacher_weights: share of each student in the ensemble's logits; None is equal shares.
      observe: ``(state, metrics) -> further metrics`` of a step that has been taken.
    """

    model: nn.Module
    forward: Callable[[Any, Any, chex.Array, chex.Array], tuple[Any, Any]]
    loss: Callable[[Any, chex.Array, Weights], tuple[chex.Array, Terms]]
    weights: Callable[[chex.Array], Weights]
    separate: bool
    teacher_weights: Sequence[float] | None = None
    observe: Callable[[TrainState, Mapping[str, Any]], dict[str, Any]] = lambda *_: {}


class Taught(NamedTuple):
    """What students with a fixed teacher return.

    Attributes:
      logits: ``[students, batch, classes]`` float32.
      adapted: for each block a tuple with each student's map, at the teacher's channels.
      teacher: the teacher's :class:`kdjax.models.Outputs`.
    """

    logits: chex.Array
    adapted: tuple[tuple[chex.Array, ...], ...]
    teacher: Outputs


def make(
    name: str,
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    steps_per_epoch: int,
    axis_name: str | None,
    execution: Execution = PLAIN,
) -> Method:
    """A method with its module, forward pass and loss.

    Args:
      name: ``ensemble`` or ``independent``.
      config: of the experiment.
      architecture: the family, depth and classes.
      student_widths: one width vector per student, the pivot's first.
      steps_per_epoch: training steps, for weights that grow over epochs.
      axis_name: the mapped axis of the devices; None: there is one device.
      execution: how the students run.
    """
    builders = {"ensemble": _ensemble, "independent": _independent}
    fields = _module_fields(config, axis_name, execution)
    return builders[name](config, architecture, student_widths, steps_per_epoch, fields)


def _ensemble(config, architecture, student_widths, steps_per_epoch, fields) -> Method:
    model = StudentEnsemble(architecture, student_widths, **fields)
    teacher_weights = tuple(config.teacher_weights) or None

    def loss(outputs: Outputs, labels: chex.Array, weights: Weights):
        return losses.online_ensemble_loss(
            outputs.logits,
            feature_pairs(outputs),
            labels,
            weights=weights,
            temperature=config.temperature,
            teacher_weights=teacher_weights,
            label_smoothing=config.label_smoothing,
        )

    def forward(variables, teacher, images, mask):
        del teacher
        outputs, stats = _forward(model, variables, images, mask)
        if config.feature_gradient_to_stem:
            return outputs, stats
        # The same computation with the stem held constant; the compiler merges the two forward
        # passes, and each keeps its own way back.
        held, _ = _forward(model.clone(stop_stem_gradient=True), variables, images, mask)
        return held._replace(logits=outputs.logits), stats

    weights = weight_ramps(config, steps_per_epoch)
    return Method(model, forward, loss, weights, False, teacher_weights)


def _independent(config, architecture, student_widths, steps_per_epoch, fields) -> Method:
    del steps_per_epoch
    model = IndependentNetworks(architecture, student_widths, **fields)

    def loss(outputs: Outputs, labels: chex.Array, weights: Weights):
        # A baseline learns from labels alone, at full weight; the weights belong to distillation.
        hard = losses.hard_label_cross_entropy(
            outputs.logits, labels, label_smoothing=config.label_smoothing
        )
        return jnp.sum(hard, axis=0), {"hard": hard}

    def forward(variables, teacher, images, mask):
        del teacher
        return _forward(model, variables, images, mask)

    return Method(model, forward, loss, lambda step: {}, True)


def taught(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    distilled: Sequence[bool],
    axis_name: str | None,
    execution: Execution = PLAIN,
) -> Method:
    """Students side by side, each learning from labels, and some from a fixed teacher too.

    The teacher is the full network of the architecture, in evaluation mode: it is no part of the
    state, and runs once for all students.

    Args:
      config: of a search.
      architecture: of teacher and students.
      student_widths: of the students.
      distilled: for each student whether it sees the teacher; the others learn from labels alone,
        at full weight.
      axis_name: names the devices.
      execution: how the students run.
    """
    fields = _module_fields(config, axis_name, execution)
    teacher_net = architecture.build(dtype=fields["dtype"])
    by_features = config.weights.feature > 0
    model = IndependentNetworks(
        architecture, student_widths, **fields, adapters=tuple(distilled) if by_features else ()
    )

    def forward(variables, teacher, images, mask):
        outputs, stats = _forward(model, variables, images, mask)
        teaching: Any = teacher_net.apply(teacher, images, train=False)
        return Taught(outputs.logits, outputs.adapted, teaching), stats

    def loss(outputs: Taught, labels: chex.Array, weights: Weights):
        pairs = [
            [None if student is None else (student, target) for student in adapted]
            for adapted, target in zip(outputs.adapted, outputs.teacher.features, strict=False)
        ]
        return losses.distillation_loss(
            outputs.logits,
            outputs.teacher.logits,
            pairs,
            labels,
            weights=weights,
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
        )

    alone = {"hard": 1.0, "feature": 0.0, "soft": 0.0}
    constant = {
        term: np.where(distilled, weight, alone[term]).astype(np.float32)
        for term, weight in config.weights.items()
    }
    return Method(model, forward, loss, lambda step: constant, True)


def _module_fields(
    config: ml_collections.ConfigDict, axis_name: str | None, execution: Execution
) -> dict[str, Any]:
    return {
        "dtype": jnp.dtype(config.compute.dtype),
        "bn_axis_name": axis_name if config.compute.batch_norm == "global" else None,
        "execution": execution,
    }


def _forward(model: nn.Module, variables, images, mask) -> tuple[Outputs, Any]:
    outputs, updated = model.apply(variables, images, train=True, mask=mask, mutable=[BATCH_STATS])
    return outputs, updated[BATCH_STATS]


def feature_pairs(outputs: Outputs) -> list[list[tuple[chex.Array, chex.Array]]]:
    """For each block, for each student 2..S: (adapted map, the pivot's map)."""
    return [
        [(student, maps[0]) for student in adapted]
        for maps, adapted in zip(outputs.features, outputs.adapted, strict=True)
    ]

"""What is trained: students distilled as an ensemble, each by itself, or from a fixed teacher."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from kdjax import losses
from kdjax.data.batches import Batch
from kdjax.models import Architecture, IndependentNetworks, Outputs, StudentEnsemble
from kdjax.models.execution import PLAIN, Execution
from kdjax.models.layers import BATCH_STATS
from kdjax.train.program.fixed_teacher import (
    FixedTeachers,
    TeacherNetwork,
    map_pairs,
    weights_of,
    with_labels,
)
from kdjax.train.program.objective import Examples, Taps, Terms, objective
from kdjax.train.program.optimizer import weight_ramps
from kdjax.train.program.state import TrainState
from kdjax.train.program.teaching import Memory, initial_memory, teacher_logits
from kdjax.widths import WidthVector

Weights = dict[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """What a training step needs to know of a method.

    Attributes:
      model: the module whose variables are trained.
      forward: ``(variables, teacher, images, mask, key) -> (outputs, new batch_stats)``, in
        training mode; ``outputs.logits`` is ``[students, batch, classes]``. Networks that drop
        parts at random do so by the key.
      loss: ``(outputs, examples, weights, memory) -> (total [batch], {term: [students, batch]})``.
      weights: step -> weight of each loss term.
      separate: whether the students must not influence each other.
      teacher_weights: share of each student in the ensemble's logits; None is equal shares.
      recall: ``(teacher, batch) -> teacher``: what forward is given of a fixed teacher.
      memory: what the teacher rule remembers before the first step
        (:mod:`kdjax.train.program.teaching`).
      observe: ``(state, metrics) -> further metrics`` of a step that has been taken.
    """

    model: nn.Module
    forward: Callable[..., tuple[Any, Any]]
    loss: Callable[[Any, Examples, Weights, Memory], tuple[chex.Array, Terms]]
    weights: Callable[[chex.Array], Weights]
    separate: bool
    teacher_weights: Sequence[float] | None = None
    recall: Callable[[Any, Batch], Any] = lambda teacher, _: teacher
    memory: Memory = dataclasses.field(default_factory=dict)
    observe: Callable[[TrainState, Mapping[str, Any]], dict[str, Any]] = lambda *_: {}


class Taught(NamedTuple):
    """What students with a fixed teacher return.

    Attributes:
      logits: ``[students, batch, classes]`` float32.
      features: for each block a tuple with each student's map.
      adapted: the same at the teacher's channels; None for students that are not taught.
      teacher: the teacher's :class:`kdjax.models.Outputs`.
    """

    logits: chex.Array
    features: tuple[tuple[chex.Array, ...], ...]
    adapted: tuple[tuple[chex.Array | None, ...], ...]
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
    wanted = objective(config)

    def loss(outputs: Outputs, examples: Examples, weights: Weights, memory: Memory):
        taught = teacher_logits(outputs.logits, examples.labels, memory, config)
        return wanted(ensemble_taps(outputs, taught), examples, weights)

    def forward(variables, teacher, images, mask, key=None):
        del teacher
        outputs, stats = _forward(model, variables, images, mask, key)
        if config.feature_gradient_to_stem:
            return outputs, stats
        # The same computation with the stem held constant; the compiler merges the two forward
        # passes, and each keeps its own way back.
        held, _ = _forward(model.clone(stop_stem_gradient=True), variables, images, mask, key)
        return held._replace(logits=outputs.logits), stats

    return Method(
        model,
        forward,
        loss,
        weight_ramps(config, steps_per_epoch),
        separate=False,
        teacher_weights=tuple(config.teacher_weights) or None,
        memory=initial_memory(config.ensemble.rule, len(student_widths)),
    )


def _independent(config, architecture, student_widths, steps_per_epoch, fields) -> Method:
    del steps_per_epoch
    model = IndependentNetworks(architecture, student_widths, **fields)

    def loss(outputs: Outputs, examples: Examples, weights: Weights, memory: Memory):
        del weights, memory
        # A baseline learns from labels alone, at full weight; the weights belong to distillation.
        hard = losses.hard_label_cross_entropy(
            outputs.logits, examples.labels, label_smoothing=config.label_smoothing
        )
        return jnp.sum(hard, axis=0), {"hard": hard}

    def forward(variables, teacher, images, mask, key=None):
        del teacher
        return _forward(model, variables, images, mask, key)

    return Method(model, forward, loss, lambda step: {}, True)


def taught(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    distilled: Sequence[bool],
    axis_name: str | None,
    execution: Execution = PLAIN,
    *,
    teachers: FixedTeachers | None = None,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    steps_per_epoch: int = 0,
) -> Method:
    """Students side by side, each learning from labels, and some from a fixed teacher too.

    The teacher is in evaluation mode: it is no part of the state, and runs once for all students.

    Args:
      config: of a search or a distillation.
      architecture: of the students.
      student_widths: of the students.
      distilled: for each student whether it sees the teacher; the others learn from labels alone,
        at full weight.
      axis_name: names the devices.
      execution: how the students run.
      teachers: of any family; None: the full network of the architecture.
      image_shape: (height, width, channels) of the images, for terms of maps.
      steps_per_epoch: training steps, for weights that grow over epochs; 0: they are constant.
    """
    fields = _module_fields(config, axis_name, execution)
    own = FixedTeachers((TeacherNetwork(architecture, architecture.widths),), fields["dtype"])
    teachers = teachers or own
    # Those that are not taught have nothing but their labels.
    wanted = objective(config if all(distilled) else with_labels(config))
    adapters: dict[str, Any] = {"adapters": tuple(distilled)} if wanted.adapts else {}
    if adapters and teachers is not own:
        adapters["teacher_channels"] = teachers.channels(len(architecture.blocks), image_shape)
    model = IndependentNetworks(architecture, student_widths, **fields, **adapters)

    def forward(variables, teacher, images, mask, key=None):
        outputs, stats = _forward(model, variables, images, mask, key)
        teaching = teachers(teacher, images)
        return Taught(outputs.logits, outputs.features, outputs.adapted, teaching), stats

    def loss(outputs: Taught, examples: Examples, weights: Weights, memory: Memory):
        del memory
        return wanted(teacher_taps(outputs, distilled), examples, weights)

    weights = weights_of(config, distilled, steps_per_epoch)
    return Method(model, forward, loss, weights, True, recall=teachers.recall)


def _module_fields(
    config: ml_collections.ConfigDict, axis_name: str | None, execution: Execution
) -> dict[str, Any]:
    return {
        "dtype": jnp.dtype(config.compute.dtype),
        "bn_axis_name": axis_name if config.compute.batch_norm == "global" else None,
        "execution": execution,
    }


def _forward(model: nn.Module, variables, images, mask, key) -> tuple[Outputs, Any]:
    drops = key is not None and model.architecture.drops
    outputs, updated = model.apply(
        variables,
        images,
        train=True,
        mask=mask,
        mutable=[BATCH_STATS],
        rngs={"dropout": key} if drops else None,
    )
    return outputs, updated[BATCH_STATS]


def ensemble_taps(outputs: Outputs, taught: chex.Array) -> Taps:
    """What terms read of an ensemble, whose pivot teaches the others feature by feature.

    Args:
      outputs: of a :class:`kdjax.models.StudentEnsemble`.
      taught: ``[students or 1, teachers, batch, classes]``: what each is taught by logits.
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
    return Taps(outputs.logits, taught, [None, *maps], [None, *adapted])


def teacher_taps(outputs: Taught, distilled: Sequence[bool]) -> Taps:
    """What terms read of students with a fixed teacher, blocks paired by depth.

    Args:
      outputs: of students and teacher.
      distilled: for each student whether it has the teacher.
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

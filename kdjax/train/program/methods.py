"""What is trained: students distilled as an ensemble, each by itself, or from a fixed teacher."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import losses
from kdjax.config import TERMS, Parts
from kdjax.config.terms import BY_TEACHER
from kdjax.data.batches import Batch
from kdjax.models import Architecture, IndependentNetworks, Outputs, StudentEnsemble
from kdjax.models.execution import PLAIN, Execution
from kdjax.models.initialize import start_of
from kdjax.models.normalization import BATCH_STATS
from kdjax.train.program import learned
from kdjax.train.program.fixed_teacher import (
    FixedTeachers,
    TeacherNetwork,
    weights_of,
    with_labels,
)
from kdjax.train.program.learned import Beginning, Learning, Seen
from kdjax.train.program.objective import Examples, Judged, objective
from kdjax.train.program.optimizer import weight_ramps
from kdjax.train.program.reading import Calls, TaughtOutputs, ensemble_taps, teacher_taps
from kdjax.train.program.state import TrainState
from kdjax.train.program.teaching import Gate, Memory, initial_memory, teacher_logits
from kdjax.widths import WidthVector

Weights = dict[str, chex.Array]

# The gate among the modules of terms; no term can have this name.
_GATE = "ensemble.gate"


@dataclasses.dataclass(frozen=True)
class Method:
    """What a training step needs to know of a method.

    Attributes:
      model: the module whose variables are trained.
      forward: ``(variables, teacher, images, mask, key) -> (outputs, new batch_stats)``, in
        training mode; ``outputs.logits`` is ``[students, batch, classes]``. Networks that drop
        parts at random do so by the key.
      loss: ``(outputs, examples, weights, memory) -> Judged``.
      weights: step -> weight of each loss term.
      separate: whether the students must not influence each other.
      average: share of their averaged copies that a step keeps at most, of students that such
        copies teach; ``teacher`` of :attr:`forward` are the copies' parameters. 0: there are none.
      teacher_weights: share of each student in the average of all; None is equal shares.
      recall: ``(teacher, batch) -> teacher``: what forward is given of a fixed teacher.
      memory: what the teacher rule remembers before the first step
        (:mod:`kdjax.train.program.teaching`).
      beginning: ``(image shape, training examples) -> Beginning``: the variables of the model and
        of terms' modules, and what terms remember.
      observe: ``(state, metrics) -> further metrics`` of a step that has been taken.
    """

    model: nn.Module
    forward: Callable[..., tuple[Any, Any]]
    loss: Callable[[Any, Examples, Weights, Memory], Judged]
    weights: Callable[[chex.Array], Weights]
    separate: bool
    beginning: Callable[[tuple[int, int, int], int], Beginning]
    average: float = 0.0
    teacher_weights: Sequence[float] | None = None
    recall: Callable[[Any, Batch], Any] = lambda teacher, _: teacher
    memory: Memory = dataclasses.field(default_factory=dict)
    observe: Callable[[TrainState, Mapping[str, Any]], dict[str, Any]] = lambda *_: {}


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
    wanted, rule = objective(config), config.ensemble.rule
    parts = wanted.parts
    if rule == "gate":
        parts[_GATE] = Parts(losses.hard_label_cross_entropy, Gate(len(student_widths)))

    def read(outputs: Outputs) -> dict[str, Calls]:
        taps = ensemble_taps(outputs, outputs.logits)
        pivot = jax.lax.stop_gradient(outputs.features[-1][0])
        pooled = jnp.mean(pivot, axis=(1, 2), dtype=jnp.float32)
        return wanted.read(taps) | ({_GATE: [[(pooled,)]]} if rule == "gate" else {})

    learning = Learning(parts, read, fields)

    def loss(seen: Seen, examples: Examples, weights: Weights, memory: Memory) -> Judged:
        shares = learned.only(seen.given[_GATE]) if rule == "gate" else None
        taught = teacher_logits(
            seen.logits, examples.labels, memory, config, shares=shares, copies=seen.copies
        )
        taps = ensemble_taps(seen.outputs, taught)
        judged = wanted(taps, examples, weights, memory.get(learned.TERMS), seen.given)
        return judged if shares is None else _with_gate(judged, seen.logits, shares, examples)

    def forward(variables, teacher, images, mask, key=None):
        outputs, stats = _forward(model, variables, images, mask, key)
        if not config.feature_gradient_to_stem:
            # The same computation with the stem held constant; the compiler merges the two forward
            # passes, and each keeps its own way back.
            held, _ = _forward(model.clone(stop_stem_gradient=True), variables, images, mask, key)
            outputs = held._replace(logits=outputs.logits)
        seen, stats = learning.see(outputs, variables, stats, mask)
        if rule == "ema":
            # By the batch's statistics, as the students: running ones would lag behind the copies.
            copies, _ = _forward(model, {**variables, "params": teacher}, images, mask, key)
            seen = seen._replace(copies=copies.logits)
        return seen, stats

    weights = weight_ramps(config, steps_per_epoch)
    return Method(
        model,
        forward,
        loss,
        pivot_untaught(weights, len(student_widths)) if rule == "wider_only" else weights,
        separate=False,
        beginning=learning.beginning_of(model, model.init_with_output),
        average=config.ensemble.ema_decay if rule == "ema" else 0.0,
        teacher_weights=_shares(config),
        memory=initial_memory(config.ensemble.rule, len(student_widths)),
    )


def pivot_untaught(
    weights: Callable[[chex.Array], Weights], students: int
) -> Callable[[chex.Array], Weights]:
    """Weights that switch off the logit terms of the widest student, which has no teacher.

    Its teacher's logits are its own, for which a divergence is 0 but a cross entropy is not.

    Args:
      weights: step -> weight of each term, a scalar or ``[students]``.
      students: how many there are.
    """
    taught = np.array([0.0] + [1.0] * (students - 1), np.float32)

    def all_but_first(step: chex.Array) -> Weights:
        return {
            term: weight * taught if TERMS[term].reads in BY_TEACHER else weight
            for term, weight in weights(step).items()
        }

    return all_but_first


def _with_gate(
    judged: Judged, logits: chex.Array, shares: chex.Array, examples: Examples
) -> Judged:
    """The objective with the gate's own: the cross entropy of its logits, which trains it alone.

    Args:
      judged: of all terms.
      logits: ``[students, batch, classes]``.
      shares: ``[batch, students]`` of the gate.
      examples: of the batch.
    """
    gated = losses.gated_logits(jax.lax.stop_gradient(logits), shares)
    own = losses.hard_label_cross_entropy(gated, examples.labels)
    terms = {**judged.terms, "gate": own}
    return judged._replace(total=judged.total + own, terms=terms)


def _independent(config, architecture, student_widths, steps_per_epoch, fields) -> Method:
    del steps_per_epoch
    model = IndependentNetworks(architecture, student_widths, **fields)

    def loss(outputs: Outputs, examples: Examples, weights: Weights, memory: Memory) -> Judged:
        del weights, memory
        # A baseline learns from labels alone, at full weight; the weights belong to distillation.
        hard = losses.hard_label_cross_entropy(
            outputs.logits, examples.labels, label_smoothing=config.label_smoothing
        )
        return Judged(jnp.sum(hard, axis=0), {"hard": hard}, {})

    def forward(variables, teacher, images, mask, key=None):
        del teacher
        return _forward(model, variables, images, mask, key)

    def beginning(image_shape: tuple[int, int, int], examples: int) -> Beginning:
        return learned.beside(start_of(model, image_shape), {}, {}, examples)

    return Method(
        model,
        forward,
        loss,
        weights=lambda step: {},
        separate=True,
        beginning=beginning,
        teacher_weights=_shares(config),
    )


def _shares(config: ml_collections.ConfigDict) -> tuple[float, ...] | None:
    """Those of the students in the average of all; only the task ``train`` has the field."""
    return tuple(config.get("teacher_weights", ())) or None


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
    steps_per_epoch: int,
) -> Method:
    """Students side by side, each learning from labels, and some from a fixed teacher too.

    The teacher is in evaluation mode: it is no part of the state, and runs once for all students.

    Args:
      config: of a stage of a search, or of a distillation.
      architecture: of the students.
      student_widths: of the students.
      distilled: for each student whether it sees the teacher; the others learn from labels alone,
        at full weight.
      axis_name: names the devices.
      execution: how the students run.
      teachers: of any family; None: the full network of the architecture.
      image_shape: (height, width, channels) of the images, for terms of maps.
      steps_per_epoch: training steps, for weights that grow over epochs.
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

    learning = Learning(
        wanted.parts, lambda outputs: wanted.read(teacher_taps(outputs, distilled)), fields
    )

    def forward(variables, teacher, images, mask, key=None):
        outputs, stats = _forward(model, variables, images, mask, key)
        teaching = teachers(teacher, images)
        taught = TaughtOutputs(outputs.logits, outputs.features, outputs.adapted, teaching)
        return learning.see(taught, variables, stats, mask)

    def start(key: chex.PRNGKey, images: chex.Array) -> tuple[TaughtOutputs, Any]:
        outputs, _ = model.init_with_output(key, images)
        variables = tuple(
            each.architecture.build(each.widths).init(key, images) for each in teachers.networks
        )
        teaching = dataclasses.replace(teachers, cached=False)(variables, images)
        return TaughtOutputs(outputs.logits, outputs.features, outputs.adapted, teaching), ()

    def loss(seen: Seen, examples: Examples, weights: Weights, memory: Memory) -> Judged:
        taps = teacher_taps(seen.outputs, distilled)
        return wanted(taps, examples, weights, memory.get(learned.TERMS), seen.given)

    beginning = learning.beginning_of(model, start)
    weights = weights_of(config, distilled, steps_per_epoch)
    return Method(model, forward, loss, weights, True, beginning, recall=teachers.recall)


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
    return outputs, updated.get(BATCH_STATS, {})

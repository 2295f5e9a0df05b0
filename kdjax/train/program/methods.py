"""What is trained: students distilled as an ensemble, each by itself, or from a fixed teacher."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import losses
from kdjax.models import Architecture, IndependentNetworks, Outputs, StudentEnsemble
from kdjax.models.execution import PLAIN, Execution, Mode
from kdjax.models.initialize import start_of
from kdjax.models.layers import BATCH_STATS
from kdjax.train.program import learned
from kdjax.train.program.learned import Beginning
from kdjax.train.program.objective import Examples, Judged, Objective, objective
from kdjax.train.program.optimizer import weight_ramps
from kdjax.train.program.reading import Calls, Taps, Taught, ensemble_taps, teacher_taps
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
      loss: ``(outputs, examples, weights, memory) -> Judged``.
      weights: step -> weight of each loss term.
      separate: whether the students must not influence each other.
      teacher_weights: share of each student in the ensemble's logits; None is equal shares.
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
    teacher_weights: Sequence[float] | None = None
    memory: Memory = dataclasses.field(default_factory=dict)
    observe: Callable[[TrainState, Mapping[str, Any]], dict[str, Any]] = lambda *_: {}


class Seen(NamedTuple):
    """What a loss with teachers sees of a batch.

    Attributes:
      logits: ``[students, batch, classes]`` float32.
      outputs: of the networks.
      given: what modules of terms make of what their terms read.
    """

    logits: chex.Array
    outputs: Any
    given: Mapping[str, Calls]


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
    learning = _Learning(wanted, lambda outputs: ensemble_taps(outputs, outputs.logits), fields)

    def loss(seen: Seen, examples: Examples, weights: Weights, memory: Memory) -> Judged:
        taught = teacher_logits(seen.logits, examples.labels, memory, config)
        taps = ensemble_taps(seen.outputs, taught)
        return wanted(taps, examples, weights, memory.get(learned.TERMS), seen.given)

    def forward(variables, teacher, images, mask, key=None):
        del teacher
        outputs, stats = _forward(model, variables, images, mask, key)
        if not config.feature_gradient_to_stem:
            # The same computation with the stem held constant; the compiler merges the two forward
            # passes, and each keeps its own way back.
            held, _ = _forward(model.clone(stop_stem_gradient=True), variables, images, mask, key)
            outputs = held._replace(logits=outputs.logits)
        return learning.see(outputs, variables, stats, mask)

    return Method(
        model,
        forward,
        loss,
        weight_ramps(config, steps_per_epoch),
        separate=False,
        beginning=learning.beginning_of(model, model.init_with_output),
        teacher_weights=tuple(config.teacher_weights) or None,
        memory=initial_memory(config.ensemble.rule, len(student_widths)),
    )


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

    return Method(model, forward, loss, lambda step: {}, True, beginning)


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
    wanted = objective(config)
    model = IndependentNetworks(
        architecture, student_widths, **fields, adapters=tuple(distilled) if wanted.adapts else ()
    )

    learning = _Learning(wanted, lambda outputs: teacher_taps(outputs, distilled), fields)

    def forward(variables, teacher, images, mask, key=None):
        outputs, stats = _forward(model, variables, images, mask, key)
        teaching: Any = teacher_net.apply(teacher, images, train=False)
        taught = Taught(outputs.logits, outputs.features, outputs.adapted, teaching)
        return learning.see(taught, variables, stats, mask)

    def start(key: chex.PRNGKey, images: chex.Array) -> tuple[Taught, Any]:
        outputs, _ = model.init_with_output(key, images)
        teaching: Any = teacher_net.init_with_output(key, images)[0]
        return Taught(outputs.logits, outputs.features, outputs.adapted, teaching), ()

    def loss(seen: Seen, examples: Examples, weights: Weights, memory: Memory) -> Judged:
        taps = teacher_taps(seen.outputs, distilled)
        return wanted(taps, examples, weights, memory.get(learned.TERMS), seen.given)

    constant = {
        term: np.where(distilled, weight, float(term == "hard")).astype(np.float32)
        for term, weight in config.weights.items()
    }
    beginning = learning.beginning_of(model, start)
    return Method(model, forward, loss, lambda step: constant, True, beginning)


@dataclasses.dataclass(frozen=True)
class _Learning:
    """The modules and memories of an objective's terms, beside the networks of a method.

    Attributes:
      wanted: the objective.
      taps: outputs of the networks -> what terms may read; of the logits of teachers nothing.
      fields: of the networks' modules.
    """

    wanted: Objective
    taps: Callable[[Any], Taps]
    fields: Mapping[str, Any]

    def see(self, outputs: Any, variables: Any, stats: Any, mask: Any) -> tuple[Seen, Any]:
        """Runs the modules.

        Args:
          outputs: of the networks.
          variables: of all networks and modules.
          stats: running statistics of the networks, after this batch.
          mask: ``[batch]`` booleans, False for padding.

        Returns:
          What the loss sees, and the running statistics of all.
        """
        parts = self.wanted.parts
        if not parts:
            return Seen(outputs.logits, outputs, {}), stats
        mode = Mode(True, mask, self.fields["dtype"], self.fields["bn_axis_name"])
        read = self.wanted.read(self.taps(outputs))
        given, own = learned.run_modules(parts, read, variables, mode)
        return Seen(outputs.logits, outputs, given), {**stats, **own}

    def beginning_of(
        self, model: nn.Module, start: Callable[[chex.PRNGKey, chex.Array], tuple[Any, Any]]
    ) -> Callable[[tuple[int, int, int], int], Beginning]:
        """:attr:`Method.beginning`.

        Args:
          model: of the method.
          start: ``(key, images) -> (outputs, ...)`` of the networks with new variables.
        """

        def beginning(image_shape: tuple[int, int, int], examples: int) -> Beginning:
            parts, read = self.wanted.parts, {}
            if parts:
                images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
                read = jax.eval_shape(
                    lambda key, images: self.wanted.read(self.taps(start(key, images)[0])),
                    jax.random.key(0),
                    images,
                )
            return learned.beside(start_of(model, image_shape), parts, read, examples)

        return beginning


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

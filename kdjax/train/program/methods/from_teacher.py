"""Distillation from fixed teachers, also within a search: the students train side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import ml_collections

from kdjax.models import Architecture, IndependentNetworks
from kdjax.models.execution import PLAIN, Execution
from kdjax.train.program import term_modules
from kdjax.train.program.fixed_teachers import FixedTeachers, TeacherNetwork
from kdjax.train.program.methods.method import Method, Weights, apply_training, module_fields
from kdjax.train.program.objective import Examples, LossOutput, objective
from kdjax.train.program.online_teacher import Memory
from kdjax.train.program.reading import TaughtOutputs, teacher_taps
from kdjax.train.program.term_modules import LossInputs, TermModules
from kdjax.train.program.term_weights import taught_weights, with_labels
from kdjax.widths import WidthVector


def from_teacher(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    distilled: Sequence[bool],
    axis_name: str | None,
    execution: Execution = PLAIN,
    *,
    teachers: FixedTeachers | None = None,
    image_shape: tuple[int, int, int],
    steps_per_epoch: int,
) -> Method:
    """The method of students side by side that learn from labels, and some also from a teacher.

    The teacher is fixed and in evaluation mode. It is not part of the state, and it runs once for
    all students.

    Args:
      config: the configuration of a search stage or of a distillation.
      architecture: the students' architecture.
      student_widths: one width vector per student.
      distilled: for each student, whether the teacher teaches it; the others learn from labels
        alone, at full weight.
      axis_name: the mapped axis of the devices; None: there is one device.
      execution: how the students run.
      teachers: teachers of any family; None: the full network of the architecture.
      image_shape: (height, width, channels) of the images, for terms that read maps.
      steps_per_epoch: training steps in one epoch, for weights that grow over epochs.
    """
    fields = module_fields(config, axis_name, execution)
    # Students without a teacher learn only from labels, so the labels' term must be on.
    wanted = objective(config if all(distilled) else with_labels(config))
    adapters: dict[str, Any] = {"adapters": tuple(distilled)} if wanted.adapts else {}
    if teachers is None:
        full = TeacherNetwork(architecture, architecture.widths)
        teachers = FixedTeachers((full,), fields["dtype"])
    elif adapters:
        adapters["teacher_channels"] = teachers.channels(len(architecture.blocks), image_shape)
    model = IndependentNetworks(architecture, student_widths, **fields, **adapters)

    modules = TermModules(
        wanted.parts, lambda outputs: wanted.read(teacher_taps(outputs, distilled)), fields
    )

    def forward(variables, teacher, images, mask, key=None):
        outputs, stats = apply_training(model, variables, images, mask, key)
        teaching = teachers(teacher, images)
        both = TaughtOutputs(outputs.logits, outputs.features, outputs.adapted, teaching)
        return modules.run(both, variables, stats, mask)

    def start(key: chex.PRNGKey, images: chex.Array) -> tuple[TaughtOutputs, Any]:
        outputs, _ = model.init_with_output(key, images)
        variables = tuple(
            each.architecture.build(each.widths).init(key, images) for each in teachers.networks
        )
        teaching = dataclasses.replace(teachers, cached=False)(variables, images)
        return TaughtOutputs(outputs.logits, outputs.features, outputs.adapted, teaching), ()

    def loss(
        inputs: LossInputs, examples: Examples, weights: Weights, memory: Memory
    ) -> LossOutput:
        taps = teacher_taps(inputs.outputs, distilled)
        return wanted(taps, examples, weights, memory.get(term_modules.NETWORK), inputs.projected)

    return Method(
        model,
        forward,
        loss,
        taught_weights(config, distilled, steps_per_epoch),
        separate=True,
        initial=modules.initial_of(model, start),
        teacher_for_batch=teachers.for_batch,
    )

"""Trains students of a fixed teacher side by side with the same students alone."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections

from kdjax.train.program import methods
from kdjax.train.program.fixed_teachers import FixedTeachers
from kdjax.train.program.state import TrainState
from kdjax.train.run.run import Run
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.stages import Stages
from kdjax.widths import WidthVector

# The stage in which some students learn from a fixed teacher, and others from labels alone.
STUDENTS = "distil"


class Learner(NamedTuple):
    """A network of the last stage.

    Attributes:
      name: the name in tables and results.
      widths: the widths of the network.
      distilled: whether the teacher teaches it; else it learns from labels alone.
    """

    name: str
    widths: WidthVector
    distilled: bool


def students_method(
    experiment: Experiment,
    learners: Sequence[Learner],
    config: ml_collections.ConfigDict,
    teachers: FixedTeachers | None,
) -> methods.Method:
    """Returns the method of the stage.

    Args:
      experiment: the experiment, with the learners' architecture.
      learners: the networks.
      config: the configuration of the stage.
      teachers: which networks teach; None: the full network of the experiment.
    """
    return methods.from_teacher(
        config,
        experiment.architecture,
        tuple(learner.widths for learner in learners),
        tuple(learner.distilled for learner in learners),
        experiment.parallel.axis_name,
        experiment.execution,
        teachers=teachers,
        image_shape=experiment.dataset.image_shape,
        steps_per_epoch=experiment.steps_per_epoch,
    )


def train_students(
    stages: Stages,
    learners: Sequence[Learner],
    config: ml_collections.ConfigDict,
    teacher: Any,
    *,
    teachers: FixedTeachers | None = None,
    begin: Callable[[TrainState], TrainState] = lambda state: state,
) -> list[tuple[Run, TrainState]]:
    """Trains networks side by side; the distilled ones learn from a fixed teacher.

    Args:
      stages: the stages of the task.
      learners: the networks, all of the experiment's architecture.
      config: the configuration of the stage.
      teacher: host variables of the teacher, or what ``teachers`` takes in their place.
      teachers: which networks teach; None: the full network of the experiment.
      begin: initial state -> state to start from.

    Returns:
      For each seed, the run and its last state, on the host.
    """
    vectors = tuple(learner.widths for learner in learners)
    experiment = dataclasses.replace(stages.experiment, student_widths=vectors)
    method = students_method(experiment, learners, config, teachers)
    runner = stages.runner(method, config, teacher=teacher)
    return [
        stages.run(STUDENTS, runner, config, experiment, seed, begin=begin)
        for seed in stages.config.seeds
    ]

"""Distillation from fixed teachers, from end to end: teacher, students, comparison."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections

from kdjax import config as configuration
from kdjax import costs
from kdjax.models import Architecture
from kdjax.train.devices import processes
from kdjax.train.program.fixed_teachers import FixedTeachers, TeacherNetwork
from kdjax.train.run import workdir
from kdjax.train.run.run import Run
from kdjax.train.tasks import announcing
from kdjax.train.tasks.distill_results import summarize
from kdjax.train.tasks.distill_teachers import (
    Teacher,
    check_fit,
    check_given,
    fixed,
    load_teachers,
    variables_of,
)
from kdjax.train.tasks.experiment import (
    Experiment,
    resolve_in_all,
    stage_config,
    teacher_architecture,
)
from kdjax.train.tasks.network_checks import check_maps
from kdjax.train.tasks.own_losses import try_own_losses
from kdjax.train.tasks.stages import Stages, measure, only_network, train_alone
from kdjax.train.tasks.students import STUDENTS, Learner, students_method, train_students
from kdjax.train.tasks.teacher_checks import digest, record_teacher
from kdjax.train.tasks.teacher_outputs import TeacherOutputs
from kdjax.train.tasks.trained_on import TrainedOn


def distill(
    config: ml_collections.ConfigDict, path: str | Path, teachers: Sequence[Teacher] = ()
) -> dict[str, Any]:
    """Distils students from a teacher, or from several, in the directory ``path``.

    A teacher that is trained here uses the first seed. The distilled students, and the same
    students trained alone, are trained once per seed, all in one compiled step, from the same
    weights.

    Args:
      config: every field as in :data:`kdjax.config.DISTILL_FIELDS`.
      path: the workdir. If it is missing or empty, a new run starts. If it holds a run of the same
        configuration and teacher, this run is continued at its current stage, or read if it is
        finished. Seeds may be added after the first seed; they are distilled too. Anything else is
        refused.
      teachers: trained networks of any family, in place of those that ``config.teacher`` names.

    Returns:
      The content of ``results.json``.

    Raises:
      kdjax.config.ConfigError, kdjax.data.DataError, kdjax.train.run.workdir.WorkdirError: for bad
        input, before anything is written.
      kdjax.train.run.interrupt.Interrupted: after SIGINT or SIGTERM; all is saved.
      kdjax.train.program.non_finite.NonFiniteError: if a loss, gradient or statistic is not finite.
    """
    path = Path(os.path.expanduser(path))
    configuration.validate(config, "distill")
    if teachers:
        check_given(teachers, config)
    experiment = resolve_in_all(config, path)
    loaded = processes.in_all(lambda: _load(experiment, teachers))
    found = ""
    if loaded:
        found = digest({str(number): each.identity for number, each in enumerate(loaded)})
        processes.check_equal({"the teachers (their digest)": found})
    processes.in_all(lambda: _try_own_losses(experiment, path, loaded))
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(workdir.claimed(path, config))
            workdir.check_widths(path, experiment.student_widths)
            _check_same_teachers(path, found)
            workdir.record_data(path, TrainedOn.of(experiment.dataset).to_json())
            workdir.create(path, config, experiment.student_widths)

        processes.on_first_unshared(claim)
        epochs = len(config.seeds) * config.epochs + (0 if loaded else config.teacher.epochs)
        return _distill(Stages(experiment, path, stack, epochs), loaded)


def _load(experiment: Experiment, teachers: Sequence[Teacher]) -> tuple[Teacher, ...]:
    for teacher in teachers:
        check_fit(teacher, experiment)
    loaded = tuple(teachers) or load_teachers(experiment)
    if not loaded:
        architecture = _own_teacher(experiment)
        check_maps(experiment.config, architecture, f"the teacher {architecture.name}")
    return loaded


def _own_teacher(experiment: Experiment) -> Architecture:
    """The architecture of the teacher that is trained here."""
    return teacher_architecture(experiment.config, experiment.dataset.num_classes)


def _try_own_losses(experiment: Experiment, path: Path, loaded: tuple[Teacher, ...]) -> None:
    if loaded:
        frozen = fixed(loaded, experiment)
    else:
        architecture = _own_teacher(experiment)
        network = TeacherNetwork(architecture, architecture.widths)
        frozen = FixedTeachers((network,), jnp.dtype(experiment.config.compute.dtype))
    learners, config = _learners(experiment), _students_config(experiment)
    try_own_losses(
        experiment,
        path,
        lambda: students_method(experiment, learners, config, frozen),
        lambda: frozen.shapes(experiment.dataset.image_shape),
    )


def _students_config(experiment: Experiment) -> ml_collections.ConfigDict:
    return stage_config(experiment.config, experiment.config.epochs)


def _check_same_teachers(path: Path, found: str) -> None:
    """Raises WorkdirError if the directory holds a run with other teachers."""
    marker = path / "teacher.json"
    if (path / "config.json").exists() and marker.exists() != bool(found):
        own = "was given by a program" if marker.exists() else "is trained there"
        raise workdir.WorkdirError(
            f"workdir {path} holds a distillation whose teacher {own}: give it the same one, or "
            "choose another --workdir"
        )
    if found:
        record_teacher(path, found, task="a distillation")


def _distill(stages: Stages, loaded: tuple[Teacher, ...]) -> dict[str, Any]:
    experiment = stages.experiment
    stages.say(
        _describe(experiment, loaded),
        *(teacher.remark for teacher in loaded if teacher.remark),
        *configuration.shortened(experiment.config, given_teacher=bool(loaded)),
    )
    teacher_runs, teachers = list[Run](), loaded
    if not loaded:
        teacher_run, own = _train_teacher(stages)
        teacher_runs, teachers = [teacher_run], (own,)
    frozen = fixed(teachers, experiment)
    outputs = TeacherOutputs(experiment, stages.feed, frozen, variables_of(teachers))
    teacher_input: Any = variables_of(teachers)
    if experiment.config.teacher.cache_logits:
        frozen = dataclasses.replace(frozen, cached=True)
        teacher_input = outputs.logits("train")[0].mean(axis=1)
    learners = _learners(experiment)
    config = _students_config(experiment)
    finished = train_students(stages, learners, config, teacher_input, teachers=frozen)
    # The test set is used only now, when nothing is left to train.
    measured = [measure(STUDENTS, run, state) for run, state in finished]
    summary = summarize(experiment, learners, teachers, outputs.accuracies(), measured)
    stages.write_results(summary, {"teacher": teacher_runs, STUDENTS: [run for run, _ in finished]})
    return summary


def _train_teacher(stages: Stages) -> tuple[Run, Teacher]:
    wanted = stages.config.teacher
    config = stage_config(stages.config, wanted.epochs)
    config.update(network=wanted.network, network_width=wanted.network_width)
    # The execution of several students does not apply to one network of another family.
    config.compute.update(execution="auto", lanes=1, remat=False)
    architecture = _own_teacher(stages.experiment)
    experiment = dataclasses.replace(
        stages.experiment,
        config=config,
        architecture=architecture,
        student_widths=(architecture.widths,),
    )
    run, state = train_alone(stages, "teacher", config, experiment)
    return run, Teacher(
        f"{architecture.name}, trained here", architecture, only_network(state), seed=run.seed
    )


def _learners(experiment: Experiment) -> list[Learner]:
    """Returns all distilled students, then the same students to be trained alone."""
    ways = {"distilled": True} | ({"alone": False} if experiment.config.baseline else {})
    return [
        Learner(f"student {number}, {way}", widths, distilled)
        for way, distilled in ways.items()
        for number, widths in enumerate(experiment.student_widths, start=1)
    ]


def _describe(experiment: Experiment, loaded: Sequence[Teacher]) -> str:
    """Returns one paragraph on what is about to be distilled."""
    config = experiment.config
    if loaded:
        teacher = " and ".join(teacher.name for teacher in loaded)
        teacher += ", whose logits are averaged" if len(loaded) > 1 else ""
    else:
        architecture = _own_teacher(experiment)
        teacher = _sized(experiment, architecture, architecture.widths)
        teacher += f", {announcing.epochs(config.teacher.epochs)}"
    students = ", ".join(
        _sized(experiment, experiment.architecture, widths) for widths in experiment.student_widths
    )
    return (
        f"{announcing.data(experiment)}\n"
        f"Teacher: {teacher}\n"
        f"Students: {students}; distilled{' and alone' if config.baseline else ''}, "
        f"{announcing.epochs(config.epochs)}, {announcing.seeds(experiment)}, batch "
        f"{config.batch_size}, {config.compute.dtype}, on {announcing.devices(experiment)}"
    )


def _sized(experiment: Experiment, architecture: Any, widths: Any) -> str:
    count = costs.count(architecture, widths, experiment.dataset.image_shape).params
    return f"{architecture.name} ({count:,} parameters)"

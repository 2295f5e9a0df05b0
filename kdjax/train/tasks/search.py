"""The structure search from end to end: teacher, search, structure, distillation, comparison.

Each stage is a :class:`kdjax.train.run.run.Run` with its own checkpoints, so that a search goes on
wherever it stopped. What is computed between two stages is computed again from the finished stage.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from kdjax import atomic, models, widths
from kdjax import config as configuration
from kdjax.models.initialize import variable_shapes
from kdjax.search import Budget, with_counts
from kdjax.train.devices import processes
from kdjax.train.program.state import TrainState
from kdjax.train.run import workdir
from kdjax.train.run.run import Run
from kdjax.train.tasks import announcing
from kdjax.train.tasks.experiment import Experiment, resolve_in_all, stage_config
from kdjax.train.tasks.own_losses import try_own_losses
from kdjax.train.tasks.results import Measured
from kdjax.train.tasks.search_results import summarize
from kdjax.train.tasks.search_stage import (
    Monitor,
    resolve_budget,
    search_method,
    search_optimizer,
    search_steps,
)
from kdjax.train.tasks.search_teacher import load_teacher
from kdjax.train.tasks.stages import Stages, evaluations, measure, only_network, train_alone
from kdjax.train.tasks.structure import CANDIDATES, Structure, candidate_start, find_structure
from kdjax.train.tasks.students import STUDENTS, Learner, students_method, train_students
from kdjax.train.tasks.teacher_checks import digest, record_teacher
from kdjax.train.tasks.trained_on import TrainedOn


def search(config: ml_collections.ConfigDict, path: str | Path) -> dict[str, Any]:
    """Finds a structure under a budget and distils it, in the directory ``path``.

    Teacher and search use the first seed; the compact network and its rivals are trained once per
    seed, all in one compiled step.

    Args:
      config: every field as in :data:`kdjax.config.SEARCH_FIELDS`.
      path: the workdir. If it is missing or empty, a new search starts. If it holds a search of the
        same configuration, this search is continued at its current stage, or read if it is
        finished. Seeds may be added after the first seed; they are distilled too. Anything else is
        refused.

    Returns:
      The content of ``results.json``.

    Raises:
      kdjax.config.ConfigError, kdjax.data.DataError, kdjax.train.run.workdir.WorkdirError: for bad
        input, before anything is written.
      kdjax.train.tasks.structure.StructureError: if the search ends above a target.
      kdjax.train.run.interrupt.Interrupted: after SIGINT or SIGTERM; all is saved.
      kdjax.train.program.non_finite.NonFiniteError: if a loss, gradient or statistic is not finite.
    """
    path = Path(os.path.expanduser(path))
    configuration.validate(config, "search")
    experiment = resolve_in_all(config, path)
    budget = processes.in_all(lambda: resolve_budget(experiment))
    latencies = _read_latencies(config)
    teacher, remark = None, ""
    if config.teacher.workdir:
        found = processes.in_all(lambda: load_teacher(config.teacher, experiment))
        teacher, remark = found.variables, found.remark
        processes.check_equal({"the teacher (its digest)": digest(teacher)})
    processes.in_all(lambda: _try_own_losses(experiment, path, budget))
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(workdir.claimed(path, config))
            if teacher is not None:
                record_teacher(path, digest(teacher))
            if latencies:
                _record_latencies(path, latencies)
            workdir.record_data(path, TrainedOn.of(experiment.dataset).to_json())
            workdir.create(path, config)

        processes.on_first_unshared(claim)
        epochs = config.search.epochs + len(config.seeds) * config.distil.epochs
        epochs += 0 if config.teacher.workdir else config.teacher.epochs
        stages = Stages(experiment, path, stack, epochs)
        remarks = (*filter(None, [remark]), *configuration.shortened(config))
        stages.say(_describe(experiment, budget), *remarks)
        return _search(stages, budget, teacher)


def _try_own_losses(experiment: Experiment, path: Path, budget: Budget) -> None:
    """Tries a user's losses in both stages that have them: later students are narrower."""
    architecture, config = experiment.architecture, experiment.config

    def teacher() -> Any:
        return variable_shapes(architecture.build(), experiment.dataset.image_shape)

    try_own_losses(experiment, path, lambda: search_method(experiment, budget), teacher)
    # One unit less in each group: a single channel would broadcast against any number.
    least = budget.least()
    counts = [
        max(least[group.name], group.channels - group.unit_size) for group in budget.channels.groups
    ]
    narrow = with_counts(architecture.widths, budget.channels, counts)
    learners = [Learner(each.name, narrow, each.distilled) for each in CANDIDATES]
    students = stage_config(config, config.distil.epochs)
    try_own_losses(
        experiment, path, lambda: students_method(experiment, learners, students, None), teacher
    )


def _search(stages: Stages, budget: Budget, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    experiment = stages.experiment
    teacher_run, teacher_state = None, None
    if teacher is None:
        teacher_run, teacher_state = _train_teacher(stages)
        teacher = only_network(teacher_state)
    search_run, found_state = _find(stages, budget, teacher)
    structure = find_structure(experiment, budget, found_state)
    _write_structure(stages, structure)
    stages.say(structure.describe())
    candidates = _distil(stages, budget, structure, teacher, found_state)
    # The test set is used only now, when nothing is left to train.
    if teacher_run is not None and teacher_state is not None:
        teacher_scores = measure("teacher", teacher_run, teacher_state)
    else:
        teacher_scores = _measure_given(stages, teacher)
    measured = [measure(STUDENTS, run, state) for run, state in candidates]
    summary = summarize(experiment, budget, structure, teacher_scores, measured)
    runs = {
        "teacher": [] if teacher_run is None else [teacher_run],
        "search": [search_run],
        STUDENTS: [run for run, _ in candidates],
    }
    stages.write_results(summary, runs)
    return summary


def _write_structure(stages: Stages, structure: Structure) -> None:
    stages.write("structure.json", lambda path: atomic.write_json(path, structure.to_json()))
    for name, vector in (
        ("widths.json", structure.compact),
        ("uniform.json", structure.uniform),
        ("full.json", stages.experiment.architecture.widths),
    ):
        stages.write(name, functools.partial(widths.save, vector))


def _train_teacher(stages: Stages) -> tuple[Run, TrainState]:
    config = stage_config(stages.config, stages.config.teacher.epochs)
    return train_alone(stages, "teacher", config, stages.experiment)


def _find(stages: Stages, budget: Budget, teacher: Mapping[str, Any]) -> tuple[Run, TrainState]:
    experiment, wanted = stages.experiment, stages.config.search
    config = stage_config(stages.config, wanted.epochs, constant_rate=wanted.learning_rate)
    runner = stages.runner(
        search_method(experiment, budget),
        config,
        teacher=teacher,
        wrap=search_optimizer(experiment, budget),
    )

    def begin(state: TrainState) -> TrainState:
        if wanted.start == "fresh":
            return state
        params = {**state.params, models.student_name(1): teacher["params"]}
        batch_stats = {**state.batch_stats, models.student_name(1): teacher["batch_stats"]}
        return state.replace(params=params, batch_stats=batch_stats)

    monitor = Monitor(budget, search_steps(experiment), wanted.descent, stages.say)
    return stages.run(
        "search", runner, config, experiment, stages.config.seeds[0], begin=begin, watch=monitor
    )


def _distil(
    stages: Stages,
    budget: Budget,
    structure: Structure,
    teacher: Mapping[str, Any],
    found: TrainState,
) -> list[tuple[Run, TrainState]]:
    config = stage_config(stages.config, stages.config.distil.epochs)
    learners = [
        Learner(candidate.name, structure.widths_of(candidate), candidate.distilled)
        for candidate in CANDIDATES
    ]
    if stages.config.distil.start == "fresh":
        return train_students(stages, learners, config, teacher)
    begin = candidate_start(budget, structure, teacher, only_network(found))
    return train_students(stages, learners, config, teacher, begin=begin)


def _measure_given(stages: Stages, teacher: Mapping[str, Any]) -> Measured:
    """Evaluates a teacher that was not trained here."""
    config = stage_config(stages.config, 1)
    runner = stages.experiment.runner("independent", stages.feed, config)
    variables = runner.place_variables(
        {collection: {models.student_name(1): tree} for collection, tree in teacher.items()}
    )
    return Measured("teacher", None, {"last": {"step": 0} | evaluations(runner, variables)})


def _read_latencies(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the measured latency table, the same in all processes; empty if there is none."""
    if not config.search.latency_table:
        return {}
    table = atomic.read_json(Path(os.path.expanduser(config.search.latency_table)))
    text = json.dumps(table, sort_keys=True)
    processes.check_equal(
        {"the latency table (its digest)": hashlib.sha256(text.encode()).hexdigest()}
    )
    return table


def _record_latencies(path: Path, table: Mapping[str, Any]) -> None:
    """Keeps a copy of a search's latency table at the first start; it must stay the same.

    Raises:
      WorkdirError: if the table has changed since the search began.
    """
    name = "latency.json"
    changed = (
        "a search with another latency table: the file that config.search.latency_table names has "
        f"changed since; put back what is in {path / name}"
    )
    workdir.record_once(path, name, table, changed)


def _describe(experiment: Experiment, budget: Budget) -> str:
    """Returns one paragraph on what is about to be searched."""
    config = experiment.config
    targets = ", ".join(
        f"{c.name} {c.target * c.model.full:,.0f} ({c.target:.1%} of {c.model.full:,.0f})"
        for c in budget.constraints
    )
    teacher = (
        f"from {config.teacher.workdir}"
        if config.teacher.workdir
        else announcing.epochs(config.teacher.epochs)
    )
    return (
        f"{experiment.named} on {announcing.data(experiment)}\n"
        f"Budget: {targets}; {config.search.schedule} over "
        f"{', '.join(budget.slot_blocks)}\n"
        f"Teacher {teacher}, search {announcing.epochs(config.search.epochs)}, then "
        f"{len(CANDIDATES)} networks {announcing.epochs(config.distil.epochs)}, "
        f"{announcing.seeds(experiment)}, on {announcing.devices(experiment)}: "
        + "; ".join(f"{number} {c.name}" for number, c in enumerate(CANDIDATES, start=1))
    )

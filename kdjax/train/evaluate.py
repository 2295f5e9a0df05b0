"""Evaluating the checkpoints of an experiment."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import ml_collections

from kdjax import config as configuration
from kdjax import models
from kdjax.train import workdir
from kdjax.train.checkpoint import CheckpointError, Checkpoints
from kdjax.train.experiment import Experiment, resolve, stage_config
from kdjax.train.loop import run_name
from kdjax.train.state import TrainState
from kdjax.train.structure import CANDIDATES
from kdjax.widths import WidthVector


def evaluate(
    path: str | Path, *, student: int = 0, split: str = "test", checkpoint: str = "last"
) -> list[dict[str, Any]]:
    """Evaluates what was trained in a workdir.

    Args:
      path: the workdir. Of a search the students are the compared networks, in the order of
        :data:`kdjax.train.structure.CANDIDATES`.
      student: 1 to the number of students: that one, extracted as its own network; 0: all.
      split: ``train``, ``validation`` or ``test``.
      checkpoint: ``last`` or ``best``.

    Returns:
      One row per run: ``run``, ``step``, ``students`` (numbers), ``accuracy`` (fractions), and with
      all students ``ensemble_accuracy``.

    Raises:
      ValueError: if there is nothing to evaluate: no run, checkpoint, split or student.
    """
    path = Path(path)
    config = workdir.read_config(path)
    # What was trained on many devices can be evaluated on one, wherever its width files have gone.
    config.compute.devices = 1
    if configuration.kind(config) == "search":
        return _evaluate_search(path, config, student, split, checkpoint)
    experiment = resolve(config, workdir.read_student_widths(path))
    workdir.check_same_data(path, experiment.dataset.fingerprint())
    students = len(experiment.student_widths)
    if not 0 <= student <= students:
        raise ValueError(f"--student is {student}: this ensemble has students 1 to {students}")
    feed = experiment.feed()
    if not feed.sizes[split]:
        raise ValueError(f"--split is {split}: it is empty in this experiment")
    rows = []
    for method in experiment.methods:
        runner = experiment.runner(method, feed)
        if student:
            alone = dataclasses.replace(
                experiment, student_widths=(experiment.student_widths[student - 1],)
            ).runner("independent", feed)
        for seed in config.seeds:
            name = run_name(method, seed)
            state = _restore(path, name, checkpoint, runner.initial_state(seed), experiment)
            if state is None:
                continue
            row: dict[str, Any] = {"run": name, "step": int(state.step)}
            if student:
                extracted = models.extract_student(state.variables, student)
                variables = {kind: {"student_1": tree} for kind, tree in extracted.items()}
                scores = alone.evaluate(alone.place_variables(variables), split)
                row["students"] = [student]
            else:
                scores = runner.evaluate(runner.place_variables(state.variables), split)
                row["students"] = list(range(1, students + 1))
                row["ensemble_accuracy"] = float(scores["ensemble_accuracy"])
            rows.append(row | {"accuracy": scores["accuracy"].tolist()})
    if not rows:
        raise CheckpointError(f"{path} has no {checkpoint!r} checkpoint yet")
    return rows


def _evaluate_search(
    path: Path, config: ml_collections.ConfigDict, student: int, split: str, checkpoint: str
) -> list[dict[str, Any]]:
    if not 0 <= student <= len(CANDIDATES):
        raise ValueError(f"--student is {student}: this search compares 1 to {len(CANDIDATES)}")
    experiment = resolve(config)
    workdir.check_same_data(path, experiment.dataset.fingerprint())
    feed = experiment.feed()
    if not feed.sizes[split]:
        raise ValueError(f"--split is {split}: it is empty in this experiment")
    numbers = [student] if student else list(range(1, len(CANDIDATES) + 1))
    runner, rows = None, []
    for seed in config.seeds:
        name = run_name("distil", seed)
        folder = path / "checkpoints" / name
        if not folder.is_dir():
            continue
        with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
            step = checkpoints.latest_step(checkpoint)
            if step is None:
                continue
            variables = checkpoints.variables(checkpoint)
            widths = checkpoints.record(checkpoint)["student_widths"]
        if runner is None:  # All seeds train the same networks.
            vectors = tuple(WidthVector(widths[number - 1]) for number in numbers)
            chosen = dataclasses.replace(experiment, student_widths=vectors)
            runner = chosen.runner("independent", feed, stage_config(config, 1))
        trees = {
            kind: {
                f"student_{place}": tree[f"student_{number}"]
                for place, number in enumerate(numbers, start=1)
            }
            for kind, tree in variables.items()
        }
        scores = runner.evaluate(runner.place_variables(trees), split)
        accuracy = scores["accuracy"].tolist()
        rows.append({"run": name, "step": step, "students": numbers, "accuracy": accuracy})
    if not rows:
        raise CheckpointError(f"{path} has no {checkpoint!r} checkpoint of its networks yet")
    return rows


def _restore(
    path: Path, name: str, kind: str, template: TrainState, experiment: Experiment
) -> TrainState | None:
    """The state of a run's checkpoint; None if it has none of that kind."""
    folder = path / "checkpoints" / name
    if not folder.is_dir():
        return None
    with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
        if checkpoints.latest_step(kind) is None:
            return None
        return checkpoints.restore(kind, template, experiment.record)[0]

"""Evaluating the checkpoints of an experiment."""

import dataclasses
from pathlib import Path
from typing import Any

from kdjax import models
from kdjax.train import workdir
from kdjax.train.checkpoint import CheckpointError, Checkpoints
from kdjax.train.experiment import Experiment, resolve
from kdjax.train.loop import run_name


def evaluate(
    path: str | Path, *, student: int = 0, split: str = "test", checkpoint: str = "last"
) -> list[dict[str, Any]]:
    """Evaluates what was trained in a workdir.

    Args:
      path: the workdir.
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
    experiment = resolve(config)
    stored = workdir.read_student_widths(path)
    if stored != [dict(vector) for vector in experiment.student_widths]:
        raise CheckpointError(
            f"{path / 'widths.json'} differs from the widths its configuration gives: the "
            "checkpoints belong to another network"
        )
    students = len(experiment.student_widths)
    if not 0 <= student <= students:
        raise ValueError(f"--student is {student}: this ensemble has students 1 to {students}")
    batches, device, bounds = experiment.prepare()
    if bounds[split][0] == bounds[split][1]:
        raise ValueError(f"--split is {split}: it is empty in this experiment")
    rows = []
    for method in experiment.methods:
        runner = experiment.runner(method, batches, device)
        alone = _alone(experiment, student).runner("independent", batches, device)
        for seed in config.seeds:
            name = run_name(method, seed)
            if not (path / "checkpoints" / name).is_dir():
                continue
            checkpoints = Checkpoints(path / "checkpoints" / name, read_only=True)
            if checkpoints.latest_step(checkpoint) is None:
                continue
            state, _ = checkpoints.restore(
                checkpoint, runner.initial_state(seed), experiment.record
            )
            checkpoints.close()
            if student:
                variables = {
                    collection: {"student_1": tree}
                    for collection, tree in models.extract_student(state.variables, student).items()
                }
                scores = alone.evaluate(alone.place_variables(variables), bounds[split])
            else:
                variables = state.variables
                scores = runner.evaluate(runner.place_variables(variables), bounds[split])
            row = {
                "run": name,
                "step": int(state.step),
                "students": [student] if student else list(range(1, students + 1)),
                "accuracy": scores["accuracy"].tolist(),
            }
            if not student:
                row["ensemble_accuracy"] = float(scores["ensemble_accuracy"])
            rows.append(row)
    if not rows:
        raise CheckpointError(f"{path} has no {checkpoint!r} checkpoint yet")
    return rows


def _alone(experiment: Experiment, student: int) -> Experiment:
    """The same experiment with one student only (student 0: the pivot, for want of a choice)."""
    return dataclasses.replace(
        experiment, student_widths=(experiment.student_widths[max(student, 1) - 1],)
    )

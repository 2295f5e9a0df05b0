"""Turns what runs measured into the content of ``results.json``."""

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import kdjax
from kdjax import costs, machine
from kdjax.models import Architecture
from kdjax.statistics import deviation, half_width, mean
from kdjax.train.tasks.experiment import Experiment
from kdjax.widths import WidthVector

# The names of the two methods in the results of a student.
_ROLES = {"independent": "baseline", "ensemble": "distilled"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One finished run.

    Attributes:
      method, seed: the method and the seed of the run; no seed if it was not trained here.
      scores: for ``last`` and, with a validation split, ``best``: its ``step`` and, for each split,
        what :meth:`kdjax.train.program.compiled.Runner.evaluate` returned.
    """

    method: str
    seed: int | None
    scores: dict[str, dict[str, Any]]


def summarize(experiment: Experiment, measured: Sequence[Measured]) -> dict[str, Any]:
    """The content of ``results.json``; accuracies are fractions.

    Means are over seeds, ``..._std`` are sample standard deviations (``ddof=1``) and
    ``..._half_width`` half the widths of 95 % t-intervals; both are None for a single seed.

    ``gain_points`` is 100 times the mean difference of distilled and baseline test accuracy, both
    of the same seed. ``relative_gain`` is the mean difference divided by the mean baseline, None if
    that is 0. ``mean_gain`` is the mean of the gains over students. Its interval is computed from
    one value per seed, the mean over students.
    """
    config = experiment.config
    select = config.evaluation.select
    students = []
    for index, vector in enumerate(experiment.student_widths):
        entry: dict[str, Any] = {
            "index": index + 1,
            **cost_entry(experiment.architecture, vector, experiment.dataset.image_shape),
        }
        for method, role in _ROLES.items():
            if method in experiment.methods:
                own = [one for one in measured if one.method == method]
                entry[role] = accuracy_entry(own, select, index)
        if len(experiment.methods) == 2:
            entry |= gain(entry["baseline"]["per_seed"], entry["distilled"]["per_seed"])
        students.append(entry)
    summary: dict[str, Any] = {"students": students}
    if len(experiment.methods) == 2:
        summary["mean_gain"] = mean_gain(students)
    for method, role in _ROLES.items():
        if method in experiment.methods:
            key = "ensemble" if role == "distilled" else "baseline_ensemble"
            summary[key] = _ensemble(measured, method, select)
    summary |= {
        "seeds": list(config.seeds),
        "last_or_best": select,
        "other": _other_checkpoint(experiment, measured),
        "made_with": made_with(experiment),
    }
    return summary


def made_with(experiment: Experiment) -> dict[str, Any]:
    """What a result was made with: network, data, devices, host, versions."""
    return {
        "network": experiment.architecture.name,
        "network_width": experiment.config.network_width,
        "dataset": experiment.dataset.name,
        "dataset_fingerprint": experiment.dataset.fingerprint(),
        "device": experiment.parallel.devices[0].device_kind,
        "devices": len(experiment.parallel.devices),
        "processor": machine.processor(),
        "cores": machine.usable_cores(),
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _of(
    measured: Sequence[Measured], method: str, checkpoint: str, split: str
) -> list[dict[str, Any]]:
    return [
        m.scores[checkpoint][split]
        for m in measured
        if m.method == method and checkpoint in m.scores and split in m.scores[checkpoint]
    ]


def over_seeds(values: Sequence[float], short: str) -> dict[str, Any]:
    """Returns the accuracies of the seeds on a split, as entries of results.

    The entries are mean, deviation and half interval; their names begin with ``short``. For
    ``test`` there is also ``per_seed``, the value of each seed.
    """
    return {
        short: mean(values),
        f"{short}_std": deviation(values),
        f"{short}_half_width": half_width(values),
        **({"per_seed": list(values)} if short == "test" else {}),
    }


def _ensemble(measured: Sequence[Measured], method: str, checkpoint: str) -> dict[str, Any]:
    scores = _of(measured, method, checkpoint, "test")
    return over_seeds([float(score["ensemble_accuracy"]) for score in scores], "test")


def gain(baseline: Sequence[float], distilled: Sequence[float]) -> dict[str, float | None]:
    """Returns a student's gain by distillation, as entries of results.

    Args:
      baseline: accuracies of the student alone, one per seed.
      distilled: accuracies of the distilled student, one per seed.
    """
    points = 100 * np.subtract(distilled, baseline)
    gained, spread, reference = mean(points), deviation(points), 100 * float(np.mean(baseline))
    return {
        "gain_points": gained,
        "gain_points_std": spread,
        "gain_half_width": half_width(points),
        "relative_gain": None if gained is None or not reference else gained / reference,
        "relative_gain_std": None if spread is None or not reference else spread / reference,
    }


def mean_gain(students: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Returns the mean over students of the gain by distillation, as an entry of results."""
    points = [
        100 * np.subtract(student["distilled"]["per_seed"], student["baseline"]["per_seed"])
        for student in students
    ]
    per_seed = np.mean(points, axis=0)
    return {"points": mean(per_seed), "half_width": half_width(per_seed)}


def _other_checkpoint(experiment: Experiment, measured: Sequence[Measured]) -> dict[str, Any]:
    """Test accuracies at the checkpoint that was not selected, for comparison."""
    other = "best" if experiment.config.evaluation.select == "last" else "last"
    groups = {method: _of(measured, method, other, "test") for method in experiment.methods}
    return {
        "checkpoint": other,
        **{
            _ROLES[method]: np.mean([score["accuracy"] for score in group], axis=0).tolist()
            for method, group in groups.items()
            if group
        },
    }


def cost_entry(
    architecture: Architecture, widths: WidthVector, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Widths and cost of a network, as entries of results.

    Args:
      architecture: the architecture of the network.
      widths: its widths.
      image_shape: (height, width, channels) of its images.
    """
    cost = costs.count(architecture, widths, image_shape)
    return {
        "widths": dict(widths),
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
    }


def accuracy_entry(measured: Sequence[Measured], checkpoint: str, place: int) -> dict[str, Any]:
    """Accuracies of a network over seeds, as entries of results.

    Args:
      measured: the finished runs, one per seed.
      checkpoint: ``last`` or ``best``.
      place: the number of the network among those trained side by side, from 0.
    """
    entry: dict[str, Any] = {}
    scores = [one.scores[checkpoint] for one in measured]
    for split, short in (("test", "test"), ("validation", "val")):
        values = [float(score[split]["accuracy"][place]) for score in scores if split in score]
        if values:
            entry |= over_seeds(values, short)
    return entry


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Returns the mean difference of paired accuracies, with deviation and half 95 % interval.

    All are in percentage points.
    """
    points = 100 * np.subtract(first, second)
    return {"mean": mean(points), "std": deviation(points), "half_width": half_width(points)}

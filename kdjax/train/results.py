"""From what runs measured to ``results.json``."""

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import kdjax
from kdjax import costs
from kdjax.train.experiment import Experiment

# How the two methods are called in results: what they are to a student.
_ROLES = {"independent": "baseline", "ensemble": "distilled"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One finished run.

    Attributes:
      method, seed: of the run.
      scores: for ``last`` and, with a validation split, ``best``: its ``step`` and, for each split,
        what :meth:`kdjax.train.runner.Runner.evaluate` returned.
      images_per_second: of training; 0 if this session trained nothing.
    """

    method: str
    seed: int
    scores: dict[str, dict[str, Any]]
    images_per_second: float


def summarize(experiment: Experiment, measured: Sequence[Measured]) -> dict[str, Any]:
    """The content of ``results.json``; accuracies are fractions, means and deviations over seeds.

    ``gain_points`` is 100 times the mean difference of distilled and baseline test accuracy, both
    of the same seed; ``relative_gain`` the mean difference over the mean baseline. Deviations are
    sample standard deviations (``ddof=1``), 0 for a single seed.
    """
    config = experiment.config
    select = config.evaluation.select
    students = []
    for index, vector in enumerate(experiment.student_widths):
        cost = costs.count(experiment.architecture, vector, experiment.dataset.image_shape)
        entry: dict[str, Any] = {
            "index": index + 1,
            "widths": dict(vector),
            "params": cost.params,
            "macs": cost.macs,
        }
        for method, role in _ROLES.items():
            if method in experiment.methods:
                entry[role] = _accuracies(measured, method, select, index)
        if len(experiment.methods) == 2:
            entry |= _gain(entry["baseline"]["per_seed"], entry["distilled"]["per_seed"])
        students.append(entry)
    summary: dict[str, Any] = {"students": students}
    for method, role in _ROLES.items():
        if method in experiment.methods:
            key = "ensemble" if role == "distilled" else "baseline_ensemble"
            summary[key] = _ensemble(measured, method, select)
    summary |= {
        "seeds": list(config.seeds),
        "last_or_best": select,
        "other": _other_checkpoint(experiment, measured),
        "throughput": {
            method: {"images_per_second": float(np.median([m.images_per_second for m in group]))}
            for method in experiment.methods
            if (group := [m for m in measured if m.method == method and m.images_per_second])
        },
        "made_with": made_with(experiment),
    }
    return summary


def made_with(experiment: Experiment) -> dict[str, Any]:
    """What a result was made with: network, data, devices, versions."""
    return {
        "network": experiment.architecture.name,
        "network_width": experiment.config.network_width,
        "dataset": experiment.dataset.name,
        "dataset_fingerprint": experiment.dataset.fingerprint(),
        "device": experiment.parallel.devices[0].device_kind,
        "devices": len(experiment.parallel.devices),
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _of(measured: Sequence[Measured], method: str, kind: str, split: str) -> list[dict[str, Any]]:
    return [
        m.scores[kind][split]
        for m in measured
        if m.method == method and kind in m.scores and split in m.scores[kind]
    ]


def _accuracies(
    measured: Sequence[Measured], method: str, kind: str, student: int
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for split, short in (("test", "test"), ("validation", "val")):
        values = [float(s["accuracy"][student]) for s in _of(measured, method, kind, split)]
        if values:
            entry[short] = float(np.mean(values))
            entry[f"{short}_std"] = deviation(values)
            if split == "test":
                entry["per_seed"] = values
    return entry


def _ensemble(measured: Sequence[Measured], method: str, kind: str) -> dict[str, Any]:
    values = [float(s["ensemble_accuracy"]) for s in _of(measured, method, kind, "test")]
    return {"test": float(np.mean(values)), "test_std": deviation(values), "per_seed": values}


def _gain(baseline: Sequence[float], distilled: Sequence[float]) -> dict[str, float]:
    differences = np.subtract(distilled, baseline)
    mean = float(np.mean(baseline))
    return {
        "gain_points": 100 * float(np.mean(differences)),
        "gain_points_std": 100 * deviation(differences),
        "relative_gain": float(np.mean(differences)) / mean if mean else float("nan"),
        "relative_gain_std": deviation(differences) / mean if mean else float("nan"),
    }


def _other_checkpoint(experiment: Experiment, measured: Sequence[Measured]) -> dict[str, Any]:
    """Test accuracies at the checkpoint that was not selected, for the reader to compare."""
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


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """Sample standard deviation; 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

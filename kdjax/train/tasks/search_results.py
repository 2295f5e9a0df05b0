"""From a finished search to its ``results.json``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax import costs
from kdjax.search import Budget
from kdjax.statistics import deviation, half_width, mean
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.results import Measured, made_with, over_seeds
from kdjax.train.tasks.structure import CANDIDATES, Structure


def summarize(
    experiment: Experiment,
    budget: Budget,
    structure: Structure,
    teacher: Measured,
    measured: Sequence[Measured],
) -> dict[str, Any]:
    """The content of a search's ``results.json``.

    ``teacher`` and each of ``candidates`` have ``widths``, ``params``, ``macs``, ``flops`` and
    accuracies as fractions; those of the candidates are means over seeds with sample deviations
    and half the widths of 95 % t-intervals, both None where there is one seed. ``structure`` is as
    in ``structure.json``. ``compact_minus_uniform_points`` and ``distilled_minus_alone_points`` are
    paired differences of test accuracy in percentage points; in
    ``compact_minus_teacher_points`` the teacher is the same one run for all seeds.

    Args:
      experiment: with its configuration and architecture.
      budget: the blocks of the search.
      structure: what the search found.
      teacher: the accuracies of the teacher.
      measured: the accuracies of the candidates, one entry per seed.
    """
    select = experiment.config.evaluation.select
    candidates = [
        {
            "name": candidate.name,
            "structure": candidate.structure,
            "distilled": candidate.distilled,
            **_cost(experiment, structure.widths_of(candidate)),
            **_accuracies([m.scores[select] for m in measured], index),
        }
        for index, candidate in enumerate(CANDIDATES)
    ]
    per_seed = [candidate["per_seed"] for candidate in candidates]
    taught = _accuracies([teacher.scores["last"]], 0)  # The one that taught.
    return {
        "teacher": {
            "seed": None if teacher.seed < 0 else teacher.seed,
            **_cost(experiment, structure.full),
            **taught,
        },
        "candidates": candidates,
        "structure": structure.to_json(),
        "blocks": [
            {"name": block.name, "groups": list(block.groups), "frozen": block.frozen}
            for block in budget.blocks
        ],
        "compact_minus_uniform_points": _difference(per_seed[0], per_seed[2]),
        "distilled_minus_alone_points": _difference(per_seed[0], per_seed[1]),
        "compact_minus_teacher_points": _difference(per_seed[0], taught["per_seed"]),
        "start": experiment.config.distil.start,
        "seeds": list(experiment.config.seeds),
        "last_or_best": select,
        "made_with": made_with(experiment),
    }


def _cost(experiment: Experiment, widths: Any) -> dict[str, Any]:
    cost = costs.count(experiment.architecture, widths, experiment.dataset.image_shape)
    return {
        "widths": dict(widths),
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
    }


def _accuracies(scores: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for split, short in (("test", "test"), ("validation", "val")):
        values = [float(score[split]["accuracy"][index]) for score in scores if split in score]
        if values:
            entry |= over_seeds(values, short)
    return entry


def _difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    points = 100 * np.subtract(first, second)
    return {"mean": mean(points), "std": deviation(points), "half_width": half_width(points)}

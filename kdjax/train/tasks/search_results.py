"""Turns a finished search into the content of its ``results.json``."""

from collections.abc import Sequence
from typing import Any

from kdjax.search import Budget
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.results import Measured, accuracy_entry, cost_entry, difference, made_with
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
    accuracies as fractions. The candidates' accuracies are means over seeds, with sample deviations
    and half the widths of 95 % t-intervals, both None for a single seed. ``structure`` is as
    in ``structure.json``. ``compact_minus_uniform_points`` and ``distilled_minus_alone_points`` are
    paired differences of test accuracy in percentage points. So is
    ``compact_minus_teacher_points``, with the same single run of the teacher for all seeds.

    Args:
      experiment: the experiment, with its configuration and architecture.
      budget: the blocks of the search.
      structure: what the search found.
      teacher: the accuracies of the teacher.
      measured: the accuracies of the candidates, one entry per seed.
    """
    architecture, shape = experiment.architecture, experiment.dataset.image_shape
    select = experiment.config.evaluation.select
    candidates = [
        {
            "name": candidate.name,
            "structure": candidate.structure,
            "distilled": candidate.distilled,
            **cost_entry(architecture, structure.widths_of(candidate), shape),
            **accuracy_entry(measured, select, index),
        }
        for index, candidate in enumerate(CANDIDATES)
    ]
    per_seed = [candidate["per_seed"] for candidate in candidates]
    # The students learn from the last checkpoint.
    teacher_scores = accuracy_entry([teacher], "last", 0)
    return {
        "teacher": {
            "seed": teacher.seed,
            **cost_entry(architecture, structure.full, shape),
            **teacher_scores,
        },
        "candidates": candidates,
        "structure": structure.to_json(),
        "blocks": [
            {"name": block.name, "groups": list(block.groups), "frozen": block.frozen}
            for block in budget.blocks
        ],
        "compact_minus_uniform_points": difference(per_seed[0], per_seed[2]),
        "distilled_minus_alone_points": difference(per_seed[0], per_seed[1]),
        "compact_minus_teacher_points": difference(per_seed[0], teacher_scores["per_seed"]),
        "start": experiment.config.distil.start,
        "seeds": list(experiment.config.seeds),
        "last_or_best": select,
        "made_with": made_with(experiment),
    }

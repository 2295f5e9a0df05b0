"""Made-up results of experiments: numbers with known means and intervals."""

import copy

import numpy as np
import pytest

from kdjax.statistics import half_width
from kdjax.train.tasks import results
from kdjax.train.tasks.results import over_seeds

MADE_WITH = {"network": "resnet8", "dataset": "folder:dog"}


def training(baselines, gains):
    """Returns a summary: ``baselines`` and ``gains`` are ``[student][seed]``, in points."""
    students = []
    for number, (baseline, gain) in enumerate(zip(baselines, gains, strict=True)):
        low, high = np.divide(baseline, 100), np.divide(np.add(baseline, gain), 100)
        students.append(
            {
                "index": number + 1,
                "widths": {"stem": 16, "stage1": 64 >> number},
                "params": 1_234_567 >> 2 * number,
                "macs": 40_000_000 >> 2 * number,
                "baseline": over_seeds(low.tolist(), "test"),
                "distilled": over_seeds(high.tolist(), "test"),
                **results.gain(low, high),
            }
        )
    average = over_seeds([0.9] * len(gains[0]), "test")
    return {
        "students": students,
        "mean_gain": results.mean_gain(students),
        "baseline_ensemble": average,
        "ensemble": average,
        "seeds": list(range(len(gains[0]))),
        "last_or_best": "last",
        "made_with": MADE_WITH,
    }


def difference(points):
    return {"mean": float(np.mean(points)), "std": None, "half_width": half_width(points)}


_SEARCH = {
    "structure": {
        "widths": {"stem": 8, "stage1": 10},
        "widths_uniform": {"stem": 11, "stage1": 11},
        "targets": {"flops": 0.5},
        "shares": {"flops": 0.4987},
        "note": "",
    },
    "blocks": [{"name": "stage1", "groups": ["stem", "stage1"], "frozen": False}],
    "start": "fresh",
    "last_or_best": "last",
    "made_with": MADE_WITH,
}


def searching(compact, alone, uniform, teacher=90.0):
    """Returns a summary of a search: accuracies in % for each seed, and for the teacher's run."""
    costs = {"widths": {"stem": 16, "stage1": 16}, "params": 1000, "macs": 2000, "flops": 4000}
    names = {"compact, distilled": compact, "compact, alone": alone, "uniform, distilled": uniform}
    candidates = [
        {
            "name": name,
            "structure": name.split(",")[0],
            "distilled": name.endswith("distilled"),
            **costs,
            "params": 400,
            "flops": 1995,
            **over_seeds([value / 100 for value in values], "test"),
        }
        for name, values in names.items()
    ]
    return copy.deepcopy(_SEARCH) | {
        "teacher": costs | {"seed": 0} | over_seeds([teacher / 100], "test"),
        "candidates": candidates,
        "compact_minus_uniform_points": difference(np.subtract(compact, uniform)),
        "distilled_minus_alone_points": difference(np.subtract(compact, alone)),
        "compact_minus_teacher_points": difference(np.subtract(compact, teacher)),
        "seeds": list(range(len(compact))),
    }


def distilling(baselines, gains, teachers=(95.0,)):
    """Returns a summary of a distillation: teachers' accuracies in %; their average has 97 %."""
    summary = training(baselines, gains)
    del summary["ensemble"], summary["baseline_ensemble"]
    taught_by = 97.0 if len(teachers) > 1 else teachers[0]
    for student in summary["students"]:
        points = 100 * np.array(student["distilled"]["per_seed"]) - taught_by
        student["distilled_minus_teacher_points"] = difference(points)
    costs = {"widths": {"stem": 16}, "params": 7_654_321, "macs": 90_000_000}
    summary["teachers"] = [
        {"name": "teacher", "network": "wrn_16_2", **costs, **over_seeds([value / 100], "test")}
        for value in teachers
    ]
    if len(teachers) > 1:
        summary["average_of_teachers"] = over_seeds([0.97], "test")
    return summary


@pytest.fixture
def make_distilling():
    return distilling


@pytest.fixture
def make_training():
    return training


@pytest.fixture
def make_search():
    return searching

"""Turns finished distillations into the content of ``results.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdjax.train.tasks.distill_teachers import Teacher
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.results import (
    Measured,
    accuracy_entry,
    cost_entry,
    difference,
    gain,
    made_with,
    mean_gain,
    over_seeds,
)
from kdjax.train.tasks.students import Learner


def summarize(
    experiment: Experiment,
    learners: Sequence[Learner],
    teachers: Sequence[Teacher],
    accuracies: Mapping[str, Sequence[float]],
    measured: Sequence[Measured],
) -> dict[str, Any]:
    """The content of the ``results.json`` of `kdjax distill`; accuracies are fractions.

    ``students`` are as in the results of `kdjax train`, where ``baseline`` is the student trained
    alone. ``distilled_minus_teacher_points`` is the paired difference to the teacher, or to the
    average of several teachers; this accuracy is the same for all seeds. ``teachers`` have cost and
    accuracies, too. ``average_of_teachers`` has accuracies, if there are several teachers.

    Args:
      experiment: the experiment, with the students' architecture.
      learners: in the order of training: all distilled students, then the same students alone.
      teachers: the teachers of the students.
      accuracies: split -> the accuracy of each teacher, then that of their averaged logits.
      measured: the accuracies of the students, one entry per seed.
    """
    architecture, shape = experiment.architecture, experiment.dataset.image_shape
    select = experiment.config.evaluation.select
    count = len(experiment.student_widths)
    taught_by = accuracies["test"][-1]
    students: list[dict[str, Any]] = []
    for place, widths in enumerate(experiment.student_widths):
        entry = {"index": place + 1, **cost_entry(architecture, widths, shape)}
        entry["distilled"] = distilled = accuracy_entry(measured, select, place)
        if len(learners) > count:
            entry["baseline"] = accuracy_entry(measured, select, count + place)
            entry |= gain(entry["baseline"]["per_seed"], distilled["per_seed"])
        per_seed = distilled["per_seed"]
        against = difference(per_seed, [taught_by] * len(per_seed))
        students.append(entry | {"distilled_minus_teacher_points": against})
    summary: dict[str, Any] = {
        "students": students,
        "teachers": [
            _teacher_entry(teacher, experiment, accuracies, number)
            for number, teacher in enumerate(teachers)
        ],
    }
    if len(teachers) > 1:
        summary["average_of_teachers"] = _accuracies(accuracies, len(teachers))
    if len(learners) > count:
        summary["mean_gain"] = mean_gain(students)
    return summary | {
        "seeds": list(experiment.config.seeds),
        "last_or_best": select,
        "made_with": made_with(experiment),
    }


def _teacher_entry(
    teacher: Teacher,
    experiment: Experiment,
    accuracies: Mapping[str, Sequence[float]],
    number: int,
) -> dict[str, Any]:
    return {
        "name": teacher.name,
        "network": teacher.architecture.name,
        "seed": teacher.seed,
        **cost_entry(teacher.architecture, teacher.vector, experiment.dataset.image_shape),
        **_accuracies(accuracies, number),
    }


def _accuracies(accuracies: Mapping[str, Sequence[float]], number: int) -> dict[str, Any]:
    """Returns the accuracies of one teacher, or of the average, as entries of results."""
    entry: dict[str, Any] = {}
    for split, short in (("test", "test"), ("validation", "val")):
        if split in accuracies:
            entry |= over_seeds([accuracies[split][number]], short)
    return entry

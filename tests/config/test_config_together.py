"""Fields of `kdjax train` that must fit together."""

import re

import pytest

from kdjax import config as configuration
from kdjax.config import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 1, 0)}, "config.seeds is (0, 1, 0): the seeds must differ"),
        (
            {"student_scales": (0.8, 0.6)},
            "config.student_scales is (0.8, 0.6): the first student is the pivot and must be 1.0",
        ),
        (
            {"student_scales": (1.0,)},
            "config.student_scales is (1.0,), 1 entries: an ensemble needs at",
        ),
        ({"student_scales": ()}, "config.student_scales is (), 0 entries"),
        ({"student_widths": ("a.json",)}, "config.student_widths is ('a.json',), 1 entries"),
        ({"student_scales": (), "method": "independent"}, "config.student_scales is (), 0 entries"),
        (
            {"teacher_weights": (0.5, 0.5)},
            "config.teacher_weights is (0.5, 0.5): expected 5 numbers that sum to 1",
        ),
        (
            {"teacher_weights": (0.3,) * 5},
            "config.teacher_weights is (0.3, 0.3, 0.3, 0.3, 0.3): expected 5 numbers that sum to 1",
        ),
        (
            {"ensemble__rule": "best", "teacher_weights": (0.2,) * 5},
            "config.teacher_weights is (0.2, 0.2, 0.2, 0.2, 0.2): only the rule 'average' has",
        ),
        ({"student_weights": (1.0, 2.0)}, "config.student_weights is (1.0, 2.0): expected 5"),
        (
            {"ensemble__rule": "by_accuracy", "weights__hard": 0.0},
            "config.ensemble.rule is 'by_accuracy', which follows the losses",
        ),
        (
            {"weights__hard": 0.0, "weights__feature": 0.0, "weights__soft": 0.0},
            "config.weights are all 0",
        ),
        (
            {"schedule__boundaries": (0.75, 0.5)},
            "config.schedule.boundaries is (0.75, 0.5): they must increase",
        ),
        (
            {"schedule__boundaries": (0.5, 0.5)},
            "config.schedule.boundaries is (0.5, 0.5): they must increase",
        ),
        ({"data__image_size": (0, 32)}, "config.data.image_size is (0, 32): both must be at"),
        ({"data__image_size": (7, 32)}, "config.data.image_size is (7, 32): both must be at"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(changed, changes, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        configuration.validate(changed(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"student_scales": (1.0,), "method": "independent"},
        {"student_scales": (), "student_widths": ("a.json", "b.json")},
        {"teacher_weights": (0.4, 0.3, 0.2, 0.1, 0.0)},
        {"weights__hard": 0.0},
        {"schedule__boundaries": ()},
        {"data__image_size": (8, 64)},
        {"evaluation__select": "best"},
        {"schedule__final": 1.0},
        {"compute__devices": 8},
        {"epochs": 1},
    ],
)
def test_unusual_values_that_are_allowed(changed, changes):
    assert configuration.validate(changed(**changes)) is None

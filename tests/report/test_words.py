"""Sentences about results: every branch, with intervals computed by hand."""

import pytest

from kdjax.report.search_table import verdict as search_verdict
from kdjax.report.table import verdict

# The half width of three seeds is 4.3027 * s / sqrt(3), with s the sample deviation: for (0.8, 1,
# 1.2) s = .2, so it is 0.497.
THIRD = [0.8, 1.0, 1.2]


def of(make, *gains):
    return verdict(make([[80.0] * len(gains[0])] * len(gains), list(gains)))


def test_a_gain_beyond_its_interval(make_training):
    assert of(make_training, THIRD, [1.8, 2.0, 2.2]) == (
        "Distillation gains 1.50 ± 0.50 points on average over the students (95 % interval over "
        "3 seeds): more than chance explains; the thinnest student gains 2.00 ± 0.50."
    )


def test_a_loss_beyond_its_interval(make_training):
    assert of(make_training, [-0.8, -1.0, -1.2], [-1.8, -2.0, -2.2]) == (
        "Distillation loses 1.50 ± 0.50 points on average over the students (95 % interval over "
        "3 seeds): more than chance explains; the thinnest student loses 2.00 ± 0.50."
    )


def test_a_difference_within_its_interval(make_training):
    assert of(make_training, [-1.0, 0.0, 1.0], [1.0, 2.0, 3.0]) == (
        "Distillation changes accuracy by +1.00 ± 2.48 points on average over the students (95 % "
        "interval over 3 seeds): no difference is shown; for the thinnest student it is "
        "+2.00 ± 2.48."
    )


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (1.5, "Distillation gains 1.50 points on average over the students: one seed gives no "
              "interval; the thinnest student gains 1.50."),
        (-1.5, "Distillation loses 1.50 points on average over the students: one seed gives "
               "no interval; the thinnest student loses 1.50."),
    ],
)  # fmt: skip
def test_one_seed(make_training, gain, expected):
    assert of(make_training, [gain]) == expected


def test_seeds_that_agree_show_nothing(make_training):
    # With 100 test images two seeds often gain the same number of images.
    found = of(make_training, [1.0, 1.0])
    assert "+1.00 ± 0.00 points" in found
    assert "all seeds agree, which leaves no interval to judge by" in found
    assert "no difference is shown" in of(make_training, [0.0, 0.0])


def test_a_search_says_all_three(make_search):
    lines = search_verdict(
        make_search([91.8, 92.0, 92.2], [91.0, 92.0, 93.0], [93.0, 93.2, 93.4], teacher=91.0)
    ).splitlines()
    assert lines == [
        # Every seed is 1.2 lower, so the seeds agree, up to rounding.
        "Compact minus uniform, both distilled, is -1.20 ± 0.00 points (95 % interval over 3 "
        "seeds): all seeds agree, which leaves no interval to judge by.",
        # (.8, 0, -.8): s = .8, 4.3027 * .8 / sqrt(3) = 1.987.
        "Compact distilled minus compact alone is +0.00 ± 1.99 points (95 % interval over 3 "
        "seeds): no difference is shown.",
        "The compact network, distilled, is 1.00 ± 0.50 points better than its teacher, one run "
        "(95 % interval over 3 seeds): more than chance explains.",
        "All this is of one search: another one may find another structure.",
        "All candidates started from fresh weights.",
    ]


def test_a_search_may_lose_and_may_have_one_seed(make_search):
    lines = search_verdict(make_search([91.8, 92.0, 92.2], [93.0] * 3, [93.0] * 3)).splitlines()
    assert lines[0].startswith(
        "The compact network is 1.00 ± 0.50 points worse than the uniform one, both distilled (95"
    )
    assert lines[1].startswith(
        "Distillation loses the compact network 1.00 ± 0.50 points against training it alone (95"
    )
    single = search_verdict(make_search([92.0], [90.0], [91.5])).splitlines()
    assert single[0] == (
        "The compact network is 0.50 points better than the uniform one, both distilled: one seed "
        "gives no interval."
    )
    assert single[1].startswith("Distillation gains the compact network 2.00 points over training")

"""Warm-up and ramps that are longer than the run."""

import pytest

from kdjax import config as configuration


@pytest.mark.parametrize(
    ("wanted", "epochs", "expected"), [(1.0, 15, 1.0), (1.0, 1, 0.5), (5.0, 2, 1.0), (0.0, 1, 0.0)]
)
def test_a_warmup_no_shorter_than_the_run_takes_half_of_it(wanted, epochs, expected):
    assert configuration.warmup_epochs(wanted, epochs) == expected


@pytest.mark.parametrize(("epochs", "expected"), [(20, 15.0), (15, 15.0), (3, 3.0)])
def test_a_ramp_longer_than_the_run_takes_the_run(epochs, expected):
    assert configuration.ramp_epochs(15.0, epochs) == expected


def test_what_is_shortened_is_said_in_a_line_each(changed):
    assert configuration.shortened(configuration.default()) == []
    assert configuration.shortened(changed(epochs=1)) == [
        "config.schedule.warmup_epochs is 1, not below config.epochs, 1: the warm-up takes half of "
        "that, 0.5",
        "config.weight_ramp.epochs is 15, above config.epochs, 1: the growth of weights.feature "
        "takes 1, the whole run",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_ramp__feature": "constant"},
        {"weights__feature": 0.0},
        {"method": "independent"},
    ],
)
def test_ramps_that_shape_nothing_are_not_spoken_of(changed, changes):
    assert configuration.shortened(changed(epochs=3, **changes)) == []


def test_both_stages_of_a_search_are_looked_at(changed_search):
    assert configuration.shortened(configuration.search_default()) == []
    # The search stage itself has a constant learning rate and no warm-up.
    lines = configuration.shortened(
        changed_search(
            teacher__epochs=3, search__epochs=1, distil__epochs=2, schedule__warmup_epochs=2.5
        )
    )
    assert lines == [
        "config.schedule.warmup_epochs is 2.5, not below config.distil.epochs, 2: the warm-up "
        "takes half of that, 1"
    ]


def test_ramps_of_a_search_are_held_against_both_its_stages(changed_search):
    lines = configuration.shortened(
        changed_search(
            weight_ramp__soft="linear", weight_ramp__epochs=3.0, search__epochs=2, distil__epochs=1
        )
    )
    growth = "the growth of weights.soft takes"
    assert [line for line in lines if "weight_ramp" in line] == [
        f"config.weight_ramp.epochs is 3, above config.search.epochs, 2: {growth} 2, the whole "
        "stage",
        f"config.weight_ramp.epochs is 3, above config.distil.epochs, 1: {growth} 1, the whole "
        "stage",
    ]


def test_a_teacher_that_is_given_has_no_warm_up():
    config = configuration.distill_default()
    config.teacher.epochs = 1
    (line,) = configuration.shortened(config)
    assert "config.teacher.epochs" in line
    assert configuration.shortened(config, given_teacher=True) == []

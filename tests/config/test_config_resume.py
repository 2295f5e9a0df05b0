"""The fields that a resumed run may change."""

import pytest

from kdjax import config as configuration

BEFORE = {"epochs": 60, "batch_size": 64, "seeds": (0, 1, 2)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 61},
        {"seeds": (0, 1, 2, 3)},
        {"seeds": (4, 2, 1, 0)},
        {"log__every_steps": 1, "log__tensorboard": False, "log__progress": False},
        {"checkpoint__every_epochs": 5, "checkpoint__keep": 9},
        {"compute__devices": 4, "compute__steps_per_dispatch": 8, "evaluation__batch_size": 9},
    ],
)
def test_a_run_may_be_continued(changed, changes):
    before, after = changed(**BEFORE), changed(**{**BEFORE, **changes})
    assert configuration.forbidden_changes(before, after) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 59}, ["config.epochs was 60, is 59: it may only grow"]),
        ({"batch_size": 32}, ["config.batch_size was 64, is 32"]),
        ({"seeds": (0,)}, ["config.seeds was (0, 1, 2), is (0,): seeds may only be added"]),
        (
            {"temperature": 4.0, "weights__soft": 0.3, "log__every_steps": 1},
            ["config.temperature was 2.0, is 4.0", "config.weights.soft was 0.15, is 0.3"],
        ),
    ],
)
def test_a_run_may_not_be_continued(changed, changes, expected):
    before, after = changed(**BEFORE), changed(**{**BEFORE, **changes})
    assert sorted(configuration.forbidden_changes(before, after)) == expected


@pytest.mark.parametrize("epochs", [59, 61])
def test_a_finished_run_neither_grows_nor_shrinks(changed, epochs):
    before, after = changed(**BEFORE), changed(**{**BEFORE, "epochs": epochs})
    assert configuration.forbidden_changes(before, after, finished=True) == [
        f"config.epochs was 60, is {epochs}: the run is finished and its test set has been read; "
        "another length needs a new workdir"
    ]
    more = changed(**{**BEFORE, "seeds": (0, 1, 2, 7)})
    assert configuration.forbidden_changes(before, more, finished=True) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": (0, 1, 2, 3)},
        {"log__every_steps": 1, "checkpoint__keep": 9},
        {"compute__devices": 4, "evaluation__batch_size": 9},
    ],
)
def test_a_search_may_be_continued(changes, changed_search):
    assert configuration.forbidden_changes(changed_search(), changed_search(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher__epochs": 21}, ["config.teacher.epochs was 20, is 21"]),
        ({"search__epochs": 21}, ["config.search.epochs was 20, is 21"]),
        ({"distil__epochs": 19}, ["config.distil.epochs was 20, is 19"]),
        (
            {"seeds": (1, 0, 2)},
            [
                "config.seeds was (0, 1, 2), is (1, 0, 2): the first one, of teacher and search, "
                "cannot change"
            ],
        ),
        ({"seeds": (0, 2)}, ["config.seeds was (0, 1, 2), is (0, 2): seeds may only be added"]),
        (
            {
                "search__target__flops": 0.3,
                "search__blocks__frozen": ("a",),
                "log__progress": False,
            },
            [
                "config.search.blocks.frozen was (), is ('a',)",
                "config.search.target.flops was 0.5, is 0.3",
            ],
        ),
    ],
)
def test_a_search_may_not_be_continued(changes, expected, changed_search):
    lines = configuration.forbidden_changes(changed_search(), changed_search(**changes))
    assert sorted(lines) == expected


def test_a_distillation_keeps_its_first_seed_and_may_become_longer():
    stored, wanted = configuration.distill_default(), configuration.distill_default()
    wanted.update(seeds=(0, 1, 2, 3), epochs=30)
    assert configuration.forbidden_changes(stored, wanted) == []
    wanted.update(seeds=(2, 1, 0))
    (line,) = configuration.forbidden_changes(stored, wanted)
    assert line.endswith("the first one, of the teacher, cannot change")
    (line,) = configuration.forbidden_changes(stored, configuration.default())
    assert line.startswith("the stored configuration is of `kdjax distill`")


def test_a_run_of_one_command_is_not_continued_by_the_other():
    train, search = configuration.default(), configuration.search_default()
    assert configuration.forbidden_changes(train, search) == [
        "the stored configuration is of `kdjax train`, the new one of `kdjax search`"
    ]
    assert configuration.forbidden_changes(search, train) == [
        "the stored configuration is of `kdjax search`, the new one of `kdjax train`"
    ]

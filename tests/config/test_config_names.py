"""Unknown fields, missing fields, and the command that a field belongs to."""

import pytest

from kdjax import config as configuration
from kdjax.config import ConfigError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("temprature", "temperature"),
        ("optimizer__momentun", "optimizer.momentum"),
        ("schedule__learning_rates", "schedule.learning_rate"),
        ("learning_rate", "schedule.learning_rate"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(changed, name, nearest):
    message = rf"unknown field config\.{name.replace('__', '.')}: did you mean config\.{nearest}\?"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(changed(**{name: 1}))


def test_a_missing_field_is_named():
    config = configuration.default()
    with config.unlocked():
        del config.schedule["factor"]
    with pytest.raises(ConfigError, match=r"config\.schedule\.factor is missing"):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("search__threshhold", "search.threshold"),
        ("search__blocks__strength", "search.blocks.strengths"),
        ("teacher__workdirs", "teacher.workdir"),
        ("threshold", "search.threshold"),
        ("temprature", "temperature"),
    ],
)
def test_an_unknown_field_of_a_search_is_named_with_the_nearest(changed_search, name, nearest):
    message = rf"unknown field config\.{name.replace('__', '.')}: did you mean config\.{nearest}\?"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(changed_search(**{name: 1}))


def test_a_missing_field_of_a_search_is_named():
    config = configuration.search_default()
    with config.unlocked():
        del config.search.target["params"]
    with pytest.raises(
        ConfigError, match=r"^config\.search\.target\.params is missing: target for the number of"
    ):
        configuration.validate(config)


# The command that a field belongs to


def test_the_kind_is_told_by_the_search_section():
    train, search = configuration.default(), configuration.search_default()
    assert (configuration.task_of(train), configuration.task_of(search)) == ("train", "search")
    assert configuration.task_of(search.to_dict()) == "search"
    assert configuration.task_of({"search": 3}) == "train"
    assert configuration.fields_of("train") is configuration.FIELDS
    assert configuration.fields_of("search") is configuration.SEARCH_FIELDS
    for config in (train, search):
        names = {name for name, _ in configuration.flatten(config)}
        assert names == set(configuration.fields_of(configuration.task_of(config)))


def test_a_distillation_is_told_by_its_teacher():
    config = configuration.distill_default()
    assert configuration.task_of(config) == configuration.task_of(config.to_dict()) == "distill"
    assert configuration.fields_of("distill") is configuration.DISTILL_FIELDS
    names = {name for name, _ in configuration.flatten(config)}
    assert names == set(configuration.DISTILL_FIELDS)
    shared = set(configuration.FIELDS) & names
    differing = {
        name
        for name in shared
        if configuration.FIELDS[name].default != configuration.DISTILL_FIELDS[name].default
    }
    assert differing == {
        "weights.hard", "weights.feature", "weights.soft", "temperature", "student_scales",
        "epochs",
    }  # fmt: skip
    # These names are shared, so that the same path can be given to both commands.
    assert {"teacher.workdir", "teacher.checkpoint", "teacher.epochs"} <= names


@pytest.mark.parametrize(
    ("name", "fields", "command"),
    [
        ("teacher.cache_logits", configuration.FIELDS, "distill"),
        ("teacher.cache_logits", configuration.SEARCH_FIELDS, "distill"),
        ("baseline", configuration.FIELDS, "distill"),
        ("method", configuration.DISTILL_FIELDS, "train"),
        ("search.epochs", configuration.DISTILL_FIELDS, "search"),
        ("teacher.run", configuration.DISTILL_FIELDS, "search"),
    ],
)
def test_whose_a_field_is(name, fields, command):
    error = configuration.unknown_field(name, fields)
    assert str(error) == f"unknown field config.{name}: it belongs to `kdjax {command}`"


def test_shared_fields_are_the_same_and_the_rest_is_known():
    train, search = configuration.FIELDS, configuration.SEARCH_FIELDS
    both = set(train) & set(search)
    differing = {name for name in both if train[name].default != search[name].default}
    assert differing == {
        "weights.hard", "weights.feature", "weights.soft", "temperature", "weight_ramp.feature",
    }  # fmt: skip
    assert {name.split(".")[0] for name in set(train) - both} == {
        "method", "student_scales", "student_widths", "teacher_weights",
        "feature_gradient_to_stem", "epochs", "ensemble", "student_weights",
    }  # fmt: skip
    assert {name.split(".")[0] for name in set(search) - both} == {"teacher", "search", "distil"}


@pytest.mark.parametrize(
    "name", sorted(set(configuration.FIELDS) - set(configuration.SEARCH_FIELDS))
)
def test_a_field_of_train_in_a_search_is_named_as_such(changed_search, name):
    error = configuration.unknown_field(name, configuration.SEARCH_FIELDS)
    assert str(error) == f"unknown field config.{name}: it belongs to `kdjax train`"
    if "." not in name:
        with pytest.raises(ConfigError) as caught:
            configuration.validate(changed_search(**{name: configuration.FIELDS[name].default}))
        assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "name", sorted(set(configuration.SEARCH_FIELDS) - set(configuration.FIELDS))
)
def test_a_field_of_a_search_in_train_is_named_as_such(name):
    error = configuration.unknown_field(name)
    assert str(error) == f"unknown field config.{name}: it belongs to `kdjax search`"


@pytest.mark.parametrize(
    ("name", "fields", "hint"),
    [
        ("search", configuration.FIELDS, "it belongs to `kdjax search`"),
        ("search.epocs", configuration.FIELDS, "it belongs to `kdjax search`"),
        ("teacher_weights", configuration.SEARCH_FIELDS, "it belongs to `kdjax train`"),
        # Both commands know these names, but here they are in the wrong place.
        ("temperature", configuration.FIELDS, "did you mean config.temperature?"),
        ("batch_size", configuration.SEARCH_FIELDS, "did you mean config.batch_size?"),
    ],
)
def test_a_section_of_the_other_command_is_named_as_such(name, fields, hint):
    error = configuration.unknown_field(name, fields)
    assert str(error) == f"unknown field config.{name}: {hint}"

"""The fields of `kdjax search`: defaults, and the values that each allows by itself."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import config as configuration
from kdjax.config import ConfigError


def test_the_default_search_is_valid_and_locked():
    config = configuration.search_default()
    configuration.validate(config)
    assert config.is_locked
    with pytest.raises(AttributeError, match="tresholds"):
        config.search.tresholds = 3.0


def test_the_default_search_halves_the_flops_and_distils_without_features():
    config = configuration.search_default()
    assert config.search.target.to_dict() == {"flops": 0.5, "params": 0.0, "latency": 0.0}
    assert {n: w for n, w in config.weights.items() if w} == {"hard": 0.5, "soft": 0.5}
    assert config.temperature == 4.0
    assert config.search.descent == 0.7
    assert (config.teacher.epochs, config.search.epochs, config.distil.epochs) == (20, 20, 20)
    assert (config.search.start, config.distil.start) == ("teacher", "fresh")
    assert config.search.schedule == "joint"


@pytest.mark.parametrize("name", configuration.SEARCH_FIELDS)
def test_a_search_field_has_a_meaning_and_a_default_that_can_be_overridden(name):
    field = configuration.SEARCH_FIELDS[name]
    assert type(field.default) in (bool, int, float, str, tuple)
    assert field.valid(field.default)
    assert field.meaning
    assert field.allowed
    assert dict(configuration.flatten(configuration.search_default()))[name] == field.default


TARGET = r"0, a share in \(0, 1\] or an absolute number"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("teacher.epochs", 0, "at least 1"),
        ("teacher.checkpoint", "first", "one of last, best"),
        ("search.epochs", 0, "at least 1"),
        ("search.learning_rate", 0.0, "above 0, finite"),
        ("search.start", "slim", "one of teacher, fresh"),
        ("search.target.flops", -0.1, TARGET),
        ("search.target.flops", 1.5, TARGET),
        ("search.target.flops", math.inf, TARGET),
        ("search.target.flops", math.nan, TARGET),
        ("search.target.params", -1e6, TARGET),
        ("search.schedule", "random", "one of joint, sequential"),
        ("search.order", ("a", ""), "different names of blocks that are not frozen"),
        ("search.order", (1,), "different names of blocks that are not frozen"),
        ("search.descent", 0.0, "above 0 and at most 0.95"),
        ("search.descent", 0.96, "above 0 and at most 0.95"),
        ("search.threshold", 0.0, "above 0 and below 1"),
        ("search.threshold", 1.0, "above 0 and below 1"),
        ("search.min_width", 0, "a share above 0 and below 1, or a whole number from 1"),
        ("search.min_width", 1.5, "a share above 0 and below 1, or a whole number from 1"),
        ("search.criterion", "gradient", "one of scale, taylor, fpgm, magnitude, random"),
        ("search.multiple", 0, "at least 1"),
        ("search.blocks.names", ("",), "different names"),
        ("search.blocks.names", (None,), "different names"),
        ("search.blocks.groups", ("",), "patterns separated by spaces"),
        ("search.blocks.groups", ("  ",), "patterns separated by spaces"),
        ("search.blocks.groups", (("a", "b"),), "patterns separated by spaces"),
        ("search.blocks.strengths", (1.0, 0.0), "numbers above 0, finite"),
        ("search.blocks.strengths", (math.inf,), "numbers above 0, finite"),
        ("search.blocks.strengths", (math.nan,), "numbers above 0, finite"),
        ("search.blocks.strengths", (1e300,), "numbers above 0, finite"),
        ("search.blocks.strengths", ("1",), "numbers above 0, finite"),
        ("search.blocks.strengths", (True,), "numbers above 0, finite"),
        ("search.blocks.resources", ("macs",), "each one of flops, params, latency, both, targets"),
        ("search.blocks.resources", (0,), "each one of flops, params, latency, both, targets"),
        ("search.blocks.targets", (1.1,), "numbers from 0 to 1"),
        ("search.blocks.targets", (-0.1,), "numbers from 0 to 1"),
        ("search.blocks.targets", (math.nan,), "numbers from 0 to 1"),
        ("search.blocks.frozen", ("",), "different names of blocks"),
        ("distil.epochs", 0, "at least 1"),
        ("distil.start", "teacher", "one of fresh, slim"),
        ("weights.feature", -0.1, "at least 0"),
        ("temperature", 0.0, "at least 0.001"),
        ("seeds", (0, -1), "different whole numbers from 0 to 4294967295"),
        ("data.validation", 1.0, "at least 0 and below 1"),
        ("optimizer.name", "lion", "one of sgd, adam, adamw, rmsprop"),
    ],
)
def test_a_value_that_a_search_cannot_take_is_named(changed_search, name, value, allowed):
    config = changed_search(**{name.replace(".", "__"): value})
    message = rf"^config\.{re.escape(name)} is {re.escape(repr(value))}: expected .*{allowed}"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("teacher.epochs", 2.0, "a whole number"),
        ("search.epochs", True, "a whole number"),
        ("search.target.flops", "0.5", "a number"),
        ("search.target.params", True, "a number"),
        ("search.expand", 1, "True or False"),
        ("search.order", "ab", "a tuple"),
        ("search.blocks.names", "ab", "a tuple"),
        ("teacher.workdir", None, "text"),
    ],
)
def test_a_value_of_another_type_is_named_in_a_search(changed_search, name, value, expected):
    config = changed_search(**{name.replace(".", "__"): value})
    message = rf"^config\.{re.escape(name)} is {re.escape(repr(value))}: expected {expected}"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(config)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["flops", "params"]), st.floats() | st.integers(-3, 10**12))
def test_a_target_is_a_share_or_a_whole_number(changed_search, cost, value):
    # The other target is set, so that this one may also be 0.
    other = {"flops": "params", "params": "flops"}[cost]
    config = changed_search(**{f"search__target__{cost}": value, f"search__target__{other}": 0.5})
    if 0 <= value <= 1 or (value > 1 and math.isfinite(value) and value % 1 == 0):
        configuration.validate(config)
    else:
        with pytest.raises(ConfigError, match=rf"^config\.search\.target\.{cost} is .*: expected"):
            configuration.validate(config)

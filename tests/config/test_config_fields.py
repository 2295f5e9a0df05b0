"""The fields of `kdjax train`: defaults, and the values that each allows by itself."""

import re

import pytest

from kdjax import config as configuration
from kdjax.config import ConfigError


def test_the_default_is_valid_and_locked():
    config = configuration.default()
    configuration.validate(config)
    assert config.is_locked
    with pytest.raises(AttributeError, match="temprature"):
        config.temprature = 3.0


def test_the_default_is_the_papers_loss():
    config = configuration.default()
    on = {name: weight for name, weight in config.weights.items() if weight}
    assert on == {"hard": 0.7, "feature": 0.15, "soft": 0.15}
    assert config.temperature == 2.0
    assert config.student_scales == (1.0, 0.8, 0.6, 0.4, 0.2)


@pytest.mark.parametrize("name", configuration.FIELDS)
def test_a_field_has_a_meaning_and_a_default_that_a_command_line_can_override(name):
    field = configuration.FIELDS[name]
    assert type(field.default) in (bool, int, float, str, tuple)
    assert field.valid(field.default)
    assert field.meaning
    assert field.allowed
    assert dict(configuration.flatten(configuration.default()))[name] == field.default


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", 0.0, "at least 0.001"),
        ("temperature", -1.0, "at least 0.001"),
        ("temperature", float("inf"), "at most 1e"),
        ("schedule.learning_rate", float("nan"), "above 0, finite"),
        ("schedule.learning_rate", 0.0, "above 0"),
        ("weights.hard", -0.1, "at least 0"),
        ("weights.feature", -0.1, "at least 0"),
        ("weights.soft", float("nan"), "at least 0"),
        ("method", "student", "one of both, ensemble, independent"),
        ("optimizer.name", "lion", "one of sgd, adam, adamw, rmsprop"),
        ("schedule.name", "linear", "one of constant, step, cosine, exponential"),
        ("weight_ramp.soft", "step", "one of constant, linear, cosine"),
        ("compute.dtype", "float16", "one of float32, bfloat16"),
        ("compute.batch_norm", "local", "one of device, global"),
        ("evaluation.select", "test", "one of last, best"),
        ("seeds", (), "different whole numbers from 0 to 4294967295"),
        ("seeds", (0, -1), "different whole numbers from 0 to 4294967295"),
        ("seeds", (0, 1.5), "different whole numbers from 0 to 4294967295"),
        ("seeds", (True,), "different whole numbers from 0 to 4294967295"),
        ("student_scales", (1.0, 0.0), "numbers above 0 and at most 1"),
        ("student_scales", (1.0, 1.2), "numbers above 0 and at most 1"),
        ("student_scales", (1.0, float("nan")), "numbers above 0 and at most 1"),
        ("student_scales", (1.0, "half"), "numbers above 0 and at most 1"),
        ("student_widths", ("a.json", ""), "paths"),
        ("teacher_weights", (1.5, -0.5), "none negative, summing to 1"),
        ("student_weights", (float("inf"), 1.0), "none negative, finite"),
        ("student_weights", (1e39, 1.0), "none negative, finite"),
        ("student_weights", (10**400, 1), "none negative, finite"),
        ("network_width", 0.0, "above 0"),
        ("data.name", "", "a name"),
        ("data.validation", 1.0, "at least 0 and below 1"),
        ("data.test", 0.0, "above 0 and below 1"),
        ("data.image_size", (32,), "two whole numbers"),
        ("data.image_size", (32.0, 32.0), "two whole numbers"),
        ("data.crop_padding", -1, "at least 0"),
        ("label_smoothing", 1.0, "at least 0 and below 1"),
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("optimizer.momentum", 1.0, "at least 0 and below 1"),
        ("optimizer.weight_decay", -1e-4, "at least 0"),
        ("schedule.boundaries", (0.5, 1.0), "above 0 and below 1"),
        ("schedule.final", 1.1, "at least 0 and at most 1"),
        ("compute.devices", -1, "at least 0"),
        ("evaluation.batch_size", 0, "at least 1"),
        ("checkpoint.keep", 0, "at least 1"),
        ("log.every_steps", 0, "at least 1"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(changed, name, value, allowed):
    config = changed(**{name.replace(".", "__"): value})
    message = rf"^config\.{re.escape(name)} is {re.escape(repr(value))}: expected .*{allowed}"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", True, "a whole number"),
        ("epochs", 2.0, "a whole number"),
        ("epochs", "60", "a whole number"),
        ("temperature", "2.0", "a number"),
        ("temperature", True, "a number"),
        ("temperature", None, "a number"),
        ("data.flip", 1, "True or False"),
        ("data.name", 10, "text"),
        ("seeds", 3, "a tuple"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_right_one(changed, name, value, expected):
    config = changed(**{name.replace(".", "__"): value})
    message = rf"^config\.{re.escape(name)} is {re.escape(repr(value))}: expected {expected}"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(config)


def test_whole_numbers_serve_as_floats(changed):
    assert configuration.validate(changed(temperature=3, student_scales=(1, 0.5))) is None

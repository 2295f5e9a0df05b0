"""The configuration: defaults, every check, JSON, what a resumed run may change, overrides."""

import json
import re
import sys
from pathlib import Path

import ml_collections
import pytest

from kdjax import config as configuration
from kdjax.cli import read_config
from kdjax.config import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def changed(**changes):
    """The default with other values, whatever their types; ``a__b`` stands for a.b."""
    config = configuration.default()
    with config.unlocked():
        for name, value in changes.items():
            *parents, leaf = name.split("__")
            node = config
            for parent in parents:
                node = node[parent]
            if leaf in node:
                del node[leaf]  # A ConfigDict would convert the value, or refuse its type.
            node[leaf] = value
    return config


def get(config, name):
    return dict(configuration.flatten(config))[name]


# Defaults


def test_the_default_is_valid_and_locked():
    config = configuration.default()
    configuration.validate(config)
    assert config.is_locked
    with pytest.raises(AttributeError, match="temprature"):
        config.temprature = 3.0


def test_the_default_is_the_papers_loss():
    config = configuration.default()
    assert config.weights.to_dict() == {"hard": 0.7, "feature": 0.15, "soft": 0.15}
    assert config.temperature == 2.0
    assert config.student_scales == (1.0, 0.8, 0.6, 0.4, 0.2)


@pytest.mark.parametrize("name", configuration.FIELDS)
def test_a_field_has_a_meaning_and_a_default_that_a_command_line_can_override(name):
    field = configuration.FIELDS[name]
    assert type(field.default) in (bool, int, float, str, tuple)
    assert field.valid(field.default)
    assert field.meaning
    assert field.allowed
    assert get(configuration.default(), name) == field.default


# Checks


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", 0.0, "above 0"),
        ("temperature", -1.0, "above 0"),
        ("temperature", float("inf"), "finite"),
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
        ("seeds", (), "different whole numbers, none negative"),
        ("seeds", (0, -1), "different whole numbers, none negative"),
        ("seeds", (0, 1.5), "different whole numbers, none negative"),
        ("seeds", (True,), "different whole numbers, none negative"),
        ("student_scales", (1.0, 0.0), "numbers above 0 and at most 1"),
        ("student_scales", (1.0, 1.2), "numbers above 0 and at most 1"),
        ("student_scales", (1.0, float("nan")), "numbers above 0 and at most 1"),
        ("student_scales", (1.0, "half"), "numbers above 0 and at most 1"),
        ("student_widths", ("a.json", ""), "paths"),
        ("teacher_weights", (1.5, -0.5), "none negative, summing to 1"),
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
def test_a_value_that_is_not_allowed_is_named_with_what_is(name, value, allowed):
    config = changed(**{name.replace(".", "__"): value})
    message = rf"^config\.{re.escape(name)} is {re.escape(repr(value))}: allowed is .*{allowed}"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", True, "a bool: expected int"),
        ("epochs", 2.0, "a float: expected int"),
        ("epochs", "60", "a str: expected int"),
        ("temperature", "2.0", "a str: expected float"),
        ("temperature", True, "a bool: expected float"),
        ("temperature", None, "a NoneType: expected float"),
        ("data.flip", 1, "a int: expected bool"),
        ("data.name", 10, "a int: expected str"),
        ("seeds", 3, "a int: expected tuple"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_right_one(name, value, expected):
    config = changed(**{name.replace(".", "__"): value})
    message = rf"^config\.{re.escape(name)} is {re.escape(repr(value))}, {expected}"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(config)


def test_whole_numbers_serve_as_floats():
    assert configuration.validate(changed(temperature=3, student_scales=(1, 0.5))) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 1, 0)}, "config.seeds is (0, 1, 0): the seeds must differ"),
        (
            {"student_scales": (0.8, 0.6)},
            "config.student_scales is (0.8, 0.6): the first student is the pivot and must be 1.0",
        ),
        ({"student_scales": (1.0,)}, "config.student_scales has 1 entries: an ensemble needs at"),
        ({"student_scales": ()}, "config.student_scales has 0 entries"),
        ({"student_widths": ("a.json",)}, "config.student_widths has 1 entries"),
        ({"student_scales": (), "method": "independent"}, "config.student_scales has 0 entries"),
        (
            {"teacher_weights": (0.5, 0.5)},
            "config.teacher_weights is (0.5, 0.5): expected 5 numbers that sum to 1",
        ),
        (
            {"teacher_weights": (0.3,) * 5},
            "config.teacher_weights is (0.3, 0.3, 0.3, 0.3, 0.3): expected 5 numbers that sum to 1",
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
        (
            {"schedule__warmup_epochs": 2.0, "epochs": 2},
            "config.schedule.warmup_epochs is 2.0: it must be below config.epochs, 2",
        ),
        ({"data__image_size": (0, 32)}, "config.data.image_size is (0, 32): both must be at"),
        ({"data__image_size": (7, 32)}, "config.data.image_size is (7, 32): both must be at"),
        (
            {"evaluation__select": "best", "data__validation": 0.0},
            "config.evaluation.select is 'best', but config.data.validation is 0",
        ),
    ],
)
def test_fields_that_do_not_fit_together_are_named(changes, message):
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
    ],
)
def test_unusual_values_that_are_allowed(changes):
    assert configuration.validate(changed(**changes)) is None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("temprature", "temperature"),
        ("optimizer__momentun", "optimizer.momentum"),
        ("schedule__learning_rates", "schedule.learning_rate"),
        ("learning_rate", "schedule.learning_rate"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(name, nearest):
    message = rf"unknown field config\.{name.replace('__', '.')}: did you mean config\.{nearest}\?"
    with pytest.raises(ConfigError, match=message):
        configuration.validate(changed(**{name: 1}))


def test_a_missing_field_is_named():
    config = configuration.default()
    with config.unlocked():
        del config.schedule["factor"]
    with pytest.raises(ConfigError, match=r"config\.schedule\.factor is missing"):
        configuration.validate(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_is_valid(path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert configuration.validate(read_config(str(path), ())) is None


# JSON


def test_json_gives_the_same_configuration_back():
    config = changed(seeds=(4, 7), temperature=3.5, data__flip=True, data__name="npz:é.npz")
    again = configuration.from_json(configuration.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.seeds == (4, 7)
    assert again.is_locked


def test_json_is_indented_and_sorted():
    text = configuration.to_json(configuration.default())
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    names = [name for name, _ in configuration.flatten(json.loads(text))]
    assert sorted(names) == sorted(configuration.FIELDS)


def test_fields_that_json_lacks_take_their_defaults():
    config = configuration.from_json('{"epochs": 3, "data": {"flip": true}}')
    assert config.to_dict() == changed(epochs=3, data__flip=True).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a configuration in JSON"),
        ("[1]", "not a configuration in JSON"),
        ("null", "not a configuration in JSON"),
        ('{"epochz": 3}', r"unknown field config\.epochz: did you mean config\.epochs\?"),
        ('{"epochs": "many"}', r"config\.epochs is 'many'"),
        ('{"epochs": null}', r"config\.epochs is None"),
        ('{"epochs": true}', r"config\.epochs is True"),
        ('{"epochs": 0}', r"config\.epochs is 0: allowed is at least 1"),
        ('{"temperature": NaN}', r"config\.temperature is nan: allowed is above 0"),
        ('{"seeds": [0, 0]}', r"config\.seeds is \(0, 0\)"),
    ],
)
def test_json_that_is_no_configuration(text, message):
    with pytest.raises(ConfigError, match=message):
        configuration.from_json(text)


# Resuming

BEFORE = {"epochs": 60, "batch_size": 64, "seeds": (0, 1, 2)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 61},
        {"log__every_steps": 1, "log__tensorboard": False, "log__progress": False},
        {"checkpoint__every_epochs": 5, "checkpoint__keep": 9},
        {"compute__devices": 4, "compute__steps_per_dispatch": 8, "evaluation__batch_size": 9},
    ],
)
def test_a_run_may_be_continued(changes):
    before, after = changed(**BEFORE), changed(**{**BEFORE, **changes})
    assert configuration.forbidden_changes(before, after) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 59}, ["config.epochs was 60, is 59: it may only grow"]),
        ({"batch_size": 32}, ["config.batch_size was 64, is 32"]),
        ({"seeds": (0,)}, ["config.seeds was (0, 1, 2), is (0,)"]),
        (
            {"temperature": 4.0, "weights__soft": 0.3, "log__every_steps": 1},
            ["config.temperature was 2.0, is 4.0", "config.weights.soft was 0.15, is 0.3"],
        ),
    ],
)
def test_a_run_may_not_be_continued(changes, expected):
    before, after = changed(**BEFORE), changed(**{**BEFORE, **changes})
    assert sorted(configuration.forbidden_changes(before, after)) == expected


# Overrides


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        (["--config.epochs=7"], "epochs", 7),
        (["--config.epochs", "7"], "epochs", 7),
        (["--config.weights.soft=0.3"], "weights.soft", 0.3),
        (["--config.temperature=3"], "temperature", 3.0),
        (["--config.schedule.learning_rate=1e-3"], "schedule.learning_rate", 1e-3),
        (["--config.data.flip=true"], "data.flip", True),
        (["--config.data.flip"], "data.flip", True),
        (["--config.optimizer.nesterov=False"], "optimizer.nesterov", False),
        (["--config.data.name=folder:a=b"], "data.name", "folder:a=b"),
        (["--config.seeds=(4,)"], "seeds", (4,)),
        (["--config.student_scales=(1.0, 0.5)"], "student_scales", (1.0, 0.5)),
        (["--config.student_widths=('a.json', 'b.json')"], "student_widths", ("a.json", "b.json")),
        (["--config.epochs=7", "--config.epochs=9"], "epochs", 9),
    ],
)
def test_an_override_sets_its_field_alone(arguments, name, expected):
    config = read_config("", arguments)
    assert isinstance(config, ml_collections.ConfigDict)
    assert get(config, name) == expected
    assert type(get(config, name)) is type(expected)
    others = {**dict(configuration.flatten(config)), name: configuration.FIELDS[name].default}
    assert others == dict(configuration.flatten(configuration.default()))


def test_an_override_leaves_the_next_configuration_alone():
    read_config("", ["--config.epochs=7"])
    assert read_config("", ()).to_dict() == configuration.default().to_dict()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.epocs=3", r"unknown field config\.epocs: did you mean config\.epochs\?"),
        ("--config.learning_rate=3", r"did you mean config\.schedule\.learning_rate\?"),
        ("--config.data=3", r"unknown field config\.data"),
        ("--config.epochs=1e3", r"--config\.epochs=1e3: .*'1e3'"),
        ("--config.epochs=2.5", r"--config\.epochs=2\.5: .*'2\.5'"),
        ("--config.epochs=", r"--config\.epochs="),
        ("--config.temperature=warm", r"--config\.temperature=warm: .*'warm'"),
        ("--config.data.flip=maybe", r"--config\.data\.flip=maybe: .*'maybe'"),
        ("--config.seeds=(0,", r"--config\.seeds=\(0,"),
        ("--epochs=3", r"--epochs=3: Unknown command line flag 'epochs'"),
        ("epochs=3", r"unknown argument 'epochs=3'; overrides look like --config\.weights\.soft"),
    ],
)
def test_an_override_that_is_wrong_is_one_clear_line(argument, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_config("", [argument])
    assert "\n" not in str(caught.value)


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "mine.py"
    path.write_text(
        "from kdjax import config as configuration\n\n\n"
        "def get_config(epochs='5'):\n"
        "    config = configuration.default()\n"
        "    config.epochs = int(epochs)\n"
        "    config.batch_size = 16\n"
        "    return config\n"
    )
    return path


def test_a_file_is_read_and_overridden(config_file):
    config = read_config(str(config_file), ["--config.batch_size=8"])
    assert (config.epochs, config.batch_size) == (5, 8)


def test_a_file_takes_an_argument(config_file):
    assert read_config(f"{config_file}:9", ()).epochs == 9


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.py: there is no such file"):
        read_config(str(tmp_path / "none.py"), ())


def test_a_value_that_a_file_cannot_take_is_one_clear_line(config_file):
    with pytest.raises(ConfigError, match=r"--config\.epochs=1e3: .*'1e3'"):
        read_config(str(config_file), ["--config.epochs=1e3"])

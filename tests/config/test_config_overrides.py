"""Overrides on the command line, and configuration files."""

import sys
from pathlib import Path

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from kdjax import config as configuration
from kdjax.cli import read_config
from kdjax.config import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def get(config, name):
    return dict(configuration.flatten(config))[name]


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
    start = configuration.default() if name == "data.name" else configuration.first_run("train")
    expected = dict(configuration.flatten(start))
    if name in ("student_scales", "student_widths"):  # The recipe's shares are for five students.
        expected["teacher_weights"] = ()
    assert others == {**expected, name: others[name]}


def test_a_default_that_is_named_changes_nothing():
    recipe = configuration.first_run("train").to_dict()
    rule = "--config.ensemble.rule=average"
    assert read_config("", [rule]).to_dict() == recipe
    scales = "--config.student_scales=(1.0, 0.8, 0.6, 0.4, 0.2)"
    assert read_config("", [scales, rule]).to_dict() == recipe
    assert read_config("", ["--config.ensemble.rule=best"]).teacher_weights == ()
    own = ["--config.student_scales=(1.0, 0.5)", "--config.teacher_weights=(0.6, 0.4)"]
    assert read_config("", own).teacher_weights == (0.6, 0.4)


def test_an_override_leaves_the_next_configuration_alone():
    read_config("", ["--config.epochs=7"])
    assert read_config("", ()).to_dict() == configuration.first_run("train").to_dict()


@pytest.mark.parametrize("data", [[], ["--config.data.name=cifar10"]])
def test_a_named_target_takes_the_place_of_the_default_one(data):
    targets = read_config("", [*data, "--config.search.target.latency=0.5"], "search").search.target
    assert targets.to_dict() == {"flops": 0.0, "params": 0.0, "latency": 0.5}
    both = [f"--config.search.target.{name}=0.3" for name in ("flops", "params")]
    targets = read_config("", [*data, *both], "search").search.target
    assert targets.to_dict() == {"flops": 0.3, "params": 0.3, "latency": 0.0}
    assert read_config("", data, "search").search.target != targets


@pytest.mark.parametrize("text", ["npz:a.npz", "cifar10", "digits2"])
@pytest.mark.parametrize("apart", [False, True])
def test_other_data_starts_from_the_defaults_of_the_fields(text, apart):
    override = ["--config.data.name", text] if apart else [f"--config.data.name={text}"]
    config = read_config("", override)
    assert config.data.name == text
    config.data.name = "digits"
    assert config.to_dict() == configuration.default().to_dict()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.epocs=3", r"unknown field config\.epocs: did you mean config\.epochs\?"),
        ("--config.learning_rate=3", r"did you mean config\.schedule\.learning_rate\?"),
        ("--config.data=3", r"config\.data is a section: set one of config\.data\.name, "),
        ("--config.epochs=1e3", r"^config\.epochs is '1e3': expected a whole number: at least 1"),
        ("--config.epochs=2.5", r"^config\.epochs is '2\.5': expected a whole number"),
        ("--config.epochs=", r"^config\.epochs is '': expected a whole number"),
        (
            "--config.temperature=warm",
            r"^config\.temperature is 'warm': expected a number: at least 0.001",
        ),
        ("--config.data.flip=maybe", r"^config\.data\.flip is 'maybe': expected True or False"),
        ("--config.seeds=(0,", r"^config\.seeds is '\(0,': expected a tuple such as \(0, 1, 2\):"),
        ("--lr=3", r"^unknown argument '--lr=3': did you mean --config\.schedule\.learning_rate\?"),
        ("config.lr=3", r"'config.lr=3': did you mean --config\.schedule\.learning_rate\?"),
        ("--config.lr=3", r"config\.lr: did you mean config\.schedule\.learning_rate\?"),
        ("--learning_rate=3", r"did you mean --config\.schedule\.learning_rate\?"),
        ("--epochs=3", r"^unknown argument '--epochs=3': did you mean --config\.epochs\?"),
        ("epochs=3", r"^unknown argument 'epochs=3': did you mean --config\.epochs\?"),
        ("--work_dir=x", r"^unknown argument '--work_dir=x': did you mean --workdir=\.\.\.\?"),
        ("extra", r"^unknown argument 'extra'; overrides look like --config\.weights\.soft"),
    ],
)
def test_an_override_that_is_wrong_is_one_clear_line(argument, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_config("", [argument])
    assert "\n" not in str(caught.value)


def test_a_tuple_that_is_given_twice_is_refused_and_a_number_replaced():
    twice = ["--config.seeds=(0,)", "--config.seeds=(0, 3)"]
    with pytest.raises(ConfigError, match=r"^--config.seeds is given twice: expected one tuple$"):
        read_config("", twice)
    assert read_config("", ["--config.epochs=3", "--config.epochs=4"]).epochs == 4


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", r"mine\.py cannot be run: SyntaxError: .*line 1"),
        ("def get_config():\n    return {}['x']", r"mine\.py cannot be run: KeyError: 'x'"),
        (
            "def get_config():\n    raise ValueError('no such pair')",
            r"mine\.py cannot be run: ValueError: no such pair$",
        ),
    ],
)
def test_a_file_that_cannot_be_run_says_why(config_file, text, message):
    config_file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(str(config_file), ())


def test_the_configuration_of_a_workdir_is_one(tmp_path):
    stored = configuration.default()
    stored.update(epochs=3, student_scales=(1.0, 0.5))
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(stored))
    config = read_config(str(path), ["--config.batch_size=8"])
    assert (config.epochs, config.student_scales, config.batch_size) == (3, (1.0, 0.5), 8)
    with pytest.raises(ConfigError, match="json is a configuration of `kdjax train`, not"):
        read_config(str(path), (), "search")
    # After a Python file, a name that ends in .json is the file's argument.
    python = tmp_path / "mine.py"
    python.write_text(
        "from kdjax import config\n\n\ndef get_config(name):\n    made = config.default()\n"
        "    made.data.name = name\n    return made\n"
    )
    assert read_config(f"{python}:set.json", ()).data.name == "set.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not a configuration in JSON"):
        read_config(str(path), ())


def test_a_flag_given_by_name_takes_no_value_behind_it():
    with pytest.raises(ConfigError, match=r"'yes': write --config\.data\.flip=True or =False"):
        read_config("", ["--config.data.flip", "yes"])


def test_negative_numbers_are_values_not_flags():
    config = read_config("", ["--config.weights.soft", "-0.3"])
    assert config.weights.soft == -0.3


def test_a_value_that_a_file_cannot_take_is_one_clear_line(config_file):
    with pytest.raises(ConfigError, match=r"^config\.epochs is '1e3': expected a whole number"):
        read_config(str(config_file), ["--config.epochs=1e3"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_is_valid(path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    task = path.stem.partition("_")[0]
    task = task if task in ("search", "distill") else "train"
    assert configuration.validate(read_config(str(path), (), task)) is None


# A search


@pytest.mark.parametrize(
    ("argument", "name", "expected"),
    [
        ("teacher.epochs=7", "teacher.epochs", 7),
        ("teacher.workdir=runs/a=b", "teacher.workdir", "runs/a=b"),
        ("search.target.flops=0", "search.target.flops", 0.0),
        ("search.target.params=150000", "search.target.params", 150000.0),
        ("search.threshold=1e-4", "search.threshold", 1e-4),
        ("search.multiple=8", "search.multiple", 8),
        ("search.expand=true", "search.expand", True),
        ("search.expand", "search.expand", True),
        ("search.order=('stage2', 'stage1')", "search.order", ("stage2", "stage1")),
        ("search.order=()", "search.order", ()),
        ("search.blocks.groups=('a b*',)", "search.blocks.groups", ("a b*",)),
        ("search.blocks.strengths=(1, 0.5)", "search.blocks.strengths", (1, 0.5)),
        ("distil.start=slim", "distil.start", "slim"),
        ("weights.feature=0.1", "weights.feature", 0.1),
    ],
)
def test_an_override_of_a_search_sets_its_field_alone(argument, name, expected):
    values = flags.FlagValues()
    arguments = ["kdjax", f"--config.{argument}"]
    config_flags.DEFINE_config_dict(
        "config", configuration.search_default(), flag_values=values, sys_argv=arguments
    )
    assert values(arguments) == ["kdjax"]
    found = dict(configuration.flatten(values["config"].value))
    assert found[name] == expected
    assert type(found[name]) is type(expected)
    default = dict(configuration.flatten(configuration.search_default()))
    assert {**found, name: default[name]} == default

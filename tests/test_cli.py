"""The command line as a person meets it."""

import json

import pytest

from kdjax import cli
from kdjax import config as configuration


def overrides_of(config):
    return [
        f"--config.{name}={value}"
        for name, value in configuration.flatten(config)
        if value != configuration.FIELDS[name].default
    ]


def test_train_then_evaluate(small_config, tmp_path, capsys):
    small_config.epochs = 2
    workdir = f"--workdir={tmp_path / 'run'}"
    assert cli.main(["train", workdir, *overrides_of(small_config)]) == 0
    shown = capsys.readouterr().out
    assert "resnet8 x 2 students" in shown
    assert "distilled" in shown
    assert "results.json" in shown
    contents = {entry.name for entry in (tmp_path / "run").iterdir()}
    assert contents >= {
        "config.json", "widths.json", "metrics.jsonl", "checkpoints", "results.json", "report",
    }  # fmt: skip
    students = json.loads((tmp_path / "run" / "widths.json").read_text())["students"]
    assert len(students) == 2
    assert cli.main(["evaluate", workdir, "--student=2"]) == 0
    assert "student 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config.weights.sooft=1"], "did you mean config.weights.soft?"),
        (["train", "--config.epochs=1e3"], "--config.epochs=1e3"),
        (["train", "--config=nothing.py"], "there is no such file"),
        (["train", "extra"], "unknown argument 'extra'"),
        (["train", "--config.network=resnet21"], "known are resnet8, resnet20"),
        (["train", "--config.optimizer.name=sdg"], "one of sgd, adam, adamw, rmsprop"),
        (["evaluate", "--workdir=nothing"], "holds no kdjax run"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith(f"kdjax {arguments[0]}: ")
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


def test_unknown_field_in_a_config_file_is_one_line(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from kdjax import config as configuration\n"
        "def get_config():\n"
        "    config = configuration.default()\n"
        "    config.epoch = 3\n"
        "    return config\n"
    )
    assert cli.main(["train", f"--config={file}"]) == 2
    shown = capsys.readouterr().err.strip()
    assert shown == "kdjax train: unknown field config.epoch: did you mean config.epochs?"


@pytest.mark.parametrize("command", ["train", "search", "evaluate", "predict", "prepare"])
def test_help_is_worth_reading(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"kdjax {command}" in shown
    if command in ("train", "search"):
        for name, field in configuration.fields_of(command).items():
            assert name in shown
            assert field.meaning in shown
    assert cli.main.__doc__


def test_preparing_without_tensorflow_says_how(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["prepare", "cifar100"]) == 2
    assert 'pip install "kdjax[prepare]"' in capsys.readouterr().err

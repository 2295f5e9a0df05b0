"""The command line as a user sees it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from kdjax import cli, models
from kdjax import config as configuration
from kdjax.cli import commands
from kdjax.cli.parser import make_parser

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md").read_text() + (ROOT / "configs" / "README.md").read_text()


def overrides_of(config):
    return [
        f"--config.{name}={value}"
        for name, value in configuration.flatten(config)
        if value != configuration.FIELDS[name].default
    ]


def test_train_then_evaluate(small_config, tmp_path, capsys):
    small_config.epochs = 2
    workdir = f"--workdir={tmp_path / 'run'}"
    unread = "--config.dkd.temperature=3"
    assert cli.main(["train", workdir, *overrides_of(small_config), unread]) == 0
    shown, remarks = capsys.readouterr()
    assert "config.dkd.temperature has no effect: config.weights.dkd is 0\n" in remarks
    assert "resnet8 x 0.25, 2 students" in shown
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
        (["bench", "--network="], "argument --network: '' names nothing"),
        (["bench", "--image_size=8x"], "'8x' is not a size, such as 32 or 24x32"),
        (["plan", "--target=,"], "argument --target: ',' names nothing"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for command, given in {
        "train": ["--workdir=~/a", "--config=~/a"],
        "evaluate": ["--workdir=~/a", "--out=~/a", "--data=~/a", "--other_data=~/a"],
        "predict": ["--workdir=~/a", "--out=~/a", "a.png"],
        "export": ["--workdir=~/a", "--out=~/a"],
        "import-torch": ["--workdir=~/a", "--weights=~/a", "--config=~/a"],
        "bench": ["--out=~/a"],
        "plan": ["--config=~/a", "--out=~/a", "--target=h200"],
    }.items():
        known = make_parser().parse_args([command, *given])
        for flag in given:
            if flag.startswith("--") and not flag.startswith("--target"):
                assert getattr(known, flag.partition("=")[0][2:]) == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config.weights.sooft=1"], "did you mean config.weights.soft?"),
        (["train", "--config.epochs=1e3"], "config.epochs is '1e3': expected a whole number"),
        (["train", "--lr=0.1"], "did you mean --config.schedule.learning_rate?"),
        (["search", "--config.search.target.flops=1.5"], "config.search.target.flops is 1.5: "),
        (["evaluate", "--workdir=nothing", "--config.epochs=3"], "--help lists what there is"),
        (
            ["train", "--config.student_widths=('a.json', 'b.json')"],
            "config.student_widths: a.json",
        ),
        (["train", "--workdir=/proc/none/run"], "workdir /proc/none/run cannot be written"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "cannot be run: SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import nothing_here", "cannot be run: ModuleNotFoundError: No module named 'nothing_h"),
        ("def get_config():\n    pass", "get_config() returned a NoneType: expected an ml_coll"),
        (
            "def get_config():\n    return {'epochs': 1}",
            "get_config() returned a dict: expected an",
        ),
        ("def get_config():\n    return 1 / 0", "cannot be run: ZeroDivisionError: division by"),
        (
            "from kdjax.config import ConfigError\nraise ConfigError('mine')",
            "mine.py cannot be run: mine\n",
        ),
        ("def get_config():\n    raise RuntimeError", "mine.py cannot be run: RuntimeError\n"),
    ],
)
def test_a_broken_config_file_is_named_before_its_fields(text, message, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(text)
    # The field may be one that the file would have registered.
    assert cli.main(["train", f"--config={file}", "--config.weights.distance=1"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"kdjax train: --config={file}")
    assert message in shown
    assert "Traceback" not in shown


def test_a_field_that_a_config_file_lacks_is_named(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'epochs': 3})\n"
    )
    assert cli.main(["train", f"--config={file}", "--config.batch_size=2"]) == 2
    assert "mine.py: config.batch_size is missing: images per" in capsys.readouterr().err


def test_a_config_file_is_run_once(tmp_path):
    file, count = tmp_path / "mine.py", tmp_path / "count"
    file.write_text(
        "from kdjax import config\n"
        "def get_config(data):\n"
        f"    with open({str(count)!r}, 'a') as file:\n"
        "        file.write('x')\n"
        "    changed = config.default()\n"
        "    changed.data.name = data\n"
        "    return changed\n"
    )
    config = cli.read_config(f"{file}:npz:a.npz", ["--config.epochs=7", "--config.seeds=(4, 5)"])
    assert (config.data.name, config.epochs, config.seeds) == ("npz:a.npz", 7, (4, 5))
    assert count.read_text() == "x"


def test_a_platform_that_is_not_there_is_one_line(monkeypatch, capsys):
    def missing(*_):
        raise AssertionError  # As JAX does for CUDA, without any text.

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert cli.main(["bench"]) == 2
    assert capsys.readouterr().err.startswith("kdjax bench: JAX_PLATFORMS is 'cuda', and JAX can")


@pytest.mark.parametrize(
    "command",
    ["train", "search", "distill", "evaluate", "predict", "plan", "prepare", "import-torch"],
)
def test_help_is_worth_reading(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"kdjax {command}" in shown
    words = " ".join(shown.split())
    if command in ("train", "search", "distill"):
        for name, field in configuration.fields_of(command).items():
            assert name in shown
            assert " ".join(field.meaning.split()) in words
            assert field.expected in words
        # The help also has the environment variables and the commands to install, as the pages do.
        for name in ("KDJAX_CACHE", "KDJAX_TUNE", "KDJAX_TRACEBACK", "TFDS_DATA_DIR"):
            assert f"\n  {name}\n" in shown
        for extra in ("", "cuda", "tpu", "prepare"):
            assert f'pip install ".[{extra}]"' in shown if extra else "pip install . " in shown
            assert f'".[{extra}]"' in PAGES if extra else "pip install . " in PAGES
    assert cli.main.__doc__


def test_preparing_without_tensorflow_says_how(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["prepare", "cifar100"]) == 2
    assert 'pip install ".[prepare]"' in capsys.readouterr().err


def test_help_names_the_networks_there_are():
    for kind in ("train", "search", "distill"):
        allowed = configuration.fields_of(kind)["network"].allowed
        assert allowed == f"one of {', '.join(models.names())}, or your own, file.py:function"


def test_ctrl_c_ends_with_a_line_and_130(monkeypatch, capsys, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(configuration, "validate", stop)
    assert cli.main(["train", f"--workdir={tmp_path}"]) == 130
    assert capsys.readouterr().err == "\nkdjax: stopped at once\n"


@pytest.mark.parametrize("place", ["import", "callback"])
def test_ctrl_c_ends_in_order_wherever_it_comes(place, tmp_path):
    program = tmp_path / "program.py"
    waits = "import time\nprint('here', flush=True)\ntime.sleep(30)\n"
    if place == "import":  # This file replaces a library that the command imports.
        (tmp_path / "ml_collections.py").write_text(waits)
        before = ""
    else:  # Python reports an exception in a destructor and continues.
        before = (
            "class Slow:\n"
            "    def __del__(self):\n"
            "        print('here', flush=True); time.sleep(30)\n"
            "import kdjax.cli.program as program\n"
            "def run(arguments):\n"
            "    Slow()\n"
            "    time.sleep(30)\n"
            "program.run = run\n"
        )
    program.write_text(
        "import signal, sys, time\n"
        # If tests run in the background, a shell may have set SIGINT to be ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from kdjax import cli\n{before}sys.argv = ['kdjax', 'train']\n"
        "sys.exit(cli.main())\n"
    )
    root = str(Path(cli.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "KDJAX_TUNE": "0"},
    )
    assert process.stdout.readline() == "here\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=20)
    assert shown == "\nkdjax: stopped at once\n"
    assert process.returncode in (130, -signal.SIGINT)  # A shell shows both as 130.


def test_plan_runs_no_workdirs_configuration(tmp_path, monkeypatch):
    """A workdir's config.json is data; a config file is run again by the compiling process."""
    given = {}

    def plan(*_, **options):
        given.update(options)
        return {"results": []}

    monkeypatch.setattr("kdjax.plan.plan", plan)
    monkeypatch.setattr("kdjax.report.print_plan", lambda _: None)
    stored, python = tmp_path / "config.json", tmp_path / "mine.py"
    stored.write_text(configuration.to_json(configuration.default()))
    python.write_text(
        "from kdjax import config\n\n\ndef get_config(_=None):\n    return config.default()\n"
    )
    for path, expected in (
        (f"{stored}", ""),
        (f"{python}", f"{python}"),
        (f"{python}:a.json", f"{python}:a.json"),
    ):
        arguments = ["plan", f"--config={path}", "--target=h200"]
        assert commands.run_plan(make_parser().parse_args(arguments), []) == 0
        assert given["config_file"] == expected

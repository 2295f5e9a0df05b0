"""`kdjax distill` as a user sees it."""

import json

import pytest

from kdjax import cli
from kdjax import config as configuration


def test_distill_then_predict_and_evaluate(small_npz, tmp_path, capsys):
    path = tmp_path / "run"
    small = {
        "seeds": (0, 1),
        "network_width": 0.25,
        "data.name": f"npz:{small_npz}",
        "teacher.network": "resnet8",
        "teacher.network_width": 0.375,
        "teacher.epochs": 1,
        "epochs": 1,
        "batch_size": 16,
        "evaluation.batch_size": 16,
        "evaluation.every_epochs": 1,
        "log.tensorboard": False,
        "compute.devices": 1,
    }
    overrides = [f"--config.{name}={value}" for name, value in small.items()]
    assert cli.main(["distill", f"--workdir={path}", *overrides]) == 0
    shown = capsys.readouterr().out
    assert "Teacher: resnet8 (" in shown and "Students: resnet8 (" in shown
    assert "teacher, resnet8" in shown and "student 1, resnet8" in shown
    contents = {entry.name for entry in path.iterdir()}
    assert contents >= {
        "config.json", "widths.json", "data.json", "metrics.jsonl", "checkpoints", "results.json",
        "report",
    }  # fmt: skip
    report = {entry.name for entry in (path / "report").iterdir()}
    assert report == {"table.md", "accuracy.png", "curves.png"}
    seeds = json.loads((path / "results.json").read_text())["students"][0]["distilled"]["per_seed"]
    assert len(seeds) == 2
    assert cli.main(["evaluate", f"--workdir={path}", "--student=teacher"]) == 0
    assert "teacher" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.teacher.workdirs=a"], "did you mean config.teacher.workdir?"),
        (["--config.teacher.workdir=a"], "config.teacher.workdir[0] is 'a': workdir a holds no"),
        (["--config.teacher.network=resnet21"], "config.teacher.network: unknown network"),
        (["--config.teacher.student=2"], "config.teacher.student is (2,): expected no entries"),
        (["--config.teacher.cache_logits"], "config.data.crop_padding is 1"),
        (["--config.method=both"], "config.method: it belongs to `kdjax train`"),
        (["--config.network=resnet21"], "known are resnet8, resnet20"),
        (["--config=configs/digits.py"], "there is no such file"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["distill", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("kdjax distill: ")
    assert len(shown.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_single_path_and_several_are_both_teachers():
    one = cli.read_config("", ["--config.teacher.workdir=runs/a"], "distill")
    two = cli.read_config("", ["--config.teacher.workdir=('runs/a', 'runs/b')"], "distill")
    assert (one.teacher.workdir, two.teacher.workdir) == (("runs/a",), ("runs/a", "runs/b"))
    other = cli.read_config("", ["--config.data.name=cifar10"], "distill")
    assert other.epochs == configuration.DISTILL_FIELDS["epochs"].default
    assert str(cli.default_workdir(other)) == "kdjax-runs/distill-cifar10-resnet8"

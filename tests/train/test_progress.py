"""Progress without a terminal: the lines are correct."""

import io

import pytest
from rich.console import Console

from kdjax.train import train
from kdjax.train.run import progress as module
from kdjax.train.run.progress import ProgressReport
from kdjax.train.run.run import Run


@pytest.fixture
def lines(monkeypatch):
    """Two functions: one makes a report that prints every line, one returns the printed lines."""
    monkeypatch.setattr(module, "_SILENCE", 0.0)
    file = io.StringIO()

    def make(total):
        return ProgressReport(total, Console(file=file, width=200))

    return make, lambda: file.getvalue().splitlines()


def test_a_run_that_was_stopped_does_not_say_100_percent(lines):
    make, printed = lines
    with pytest.raises(KeyboardInterrupt), make(1000) as report:
        report.start(1000, 0)
        report.reach(999, "run", "epoch 5/5", 10.0)
        raise KeyboardInterrupt
    assert printed() == [" 99%  run epoch 5/5  10 images/s", " 99%  stopped"]


def test_runs_add_up_whatever_an_earlier_session_did(lines):
    make, printed = lines
    with make(300) as report:
        report.start(100, 100)  # Finished before.
        report.start(100, 40)  # Continued.
        report.reach(50, "second", "epoch 1/2", 0.0)
        report.reach(20, "second", "epoch 1/2", 0.0)  # Rolled back.
        report.reach(100, "second", "epoch 2/2", 0.0)
        report.start(100, 0)
        report.reach(100, "third", "epoch 2/2", 0.0)
    assert [line.split()[0] for line in printed()] == ["50%", "40%", "66%", "100%", "100%"]
    assert printed()[-1] == "100%  done"


def test_nothing_trained_is_nothing_said(lines):
    make, printed = lines
    with make(100) as report:
        report.start(100, 100)
    assert printed() == []


def test_names_are_printed_as_they_are(lines):
    make, printed = lines
    make(1).say("folder:dog [red]x")
    assert printed() == ["folder:dog [red]x"]


def test_a_continued_run_says_from_where(small_config, tmp_path, monkeypatch, capsys):
    original = Run._train_epoch

    def fail(self, state, step, epoch):
        if epoch == 2:
            raise RuntimeError("cut off")
        return original(self, state, step, epoch)

    monkeypatch.setattr(Run, "_train_epoch", fail)
    with pytest.raises(RuntimeError, match="cut off"):
        train(small_config, tmp_path / "run")
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == " 66%  stopped"  # Two of three epochs.
    monkeypatch.setattr(Run, "_train_epoch", original)
    train(small_config, tmp_path / "run")
    shown = capsys.readouterr().out
    # 81 training images in batches of 16 are 6 steps.
    assert "ensemble-seed0 goes on from step 12, epoch 3/3\n" in shown
    assert shown.splitlines()[-1] == "100%  done"

"""The training loop: results, resuming, stopping."""

import json
import re
import shutil
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax import load_student, models, report, widths
from kdjax.report.table import results_grid
from kdjax.train import train
from kdjax.train.program import compiled as runner_module
from kdjax.train.program.non_finite import NonFiniteError
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints
from kdjax.train.run.interrupt import Interrupted
from kdjax.train.run.run import Run
from kdjax.train.tasks.evaluate import evaluate
from kdjax.train.tasks.experiment import resolve


def records(path, run="ensemble-seed0", kind="train"):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["run"] == run and line["kind"] == kind]


def last_state(path, config, run="ensemble-seed0"):
    experiment = resolve(config)
    feed = experiment.feed()
    template = experiment.runner(run.split("-")[0], feed).initial_state(0)
    checkpoints = Checkpoints(path / "checkpoints" / run, read_only=True)
    state, _ = checkpoints.restore("last", template, experiment.record)
    checkpoints.close()
    return state


@pytest.fixture(scope="module")
def both(tmp_path_factory, small_npz):
    """A finished run of both methods over two seeds: (config, workdir, results, traces)."""
    config = configuration.default()
    config.update_from_flattened_dict(
        {
            "seeds": (0, 1),
            "network_width": 0.25,
            "student_scales": (1.0, 0.5),
            "teacher_weights": (0.7, 0.3),
            "data.name": f"npz:{small_npz}",
            "epochs": 8,
            "evaluation.every_epochs": 1,
            "batch_size": 16,
            "evaluation.batch_size": 16,
            "log.every_steps": 3,
            "compute.devices": 1,
        }
    )
    path = tmp_path_factory.mktemp("both") / "run"
    traces = []
    original = runner_module.train_step

    def counted(*args, **kwargs):
        traces.append(kwargs["method"].separate)
        return original(*args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(runner_module, "train_step", counted)
    summary = train(config, path)
    patch.undo()
    return config, path, summary, traces


def test_results_are_as_documented(both):
    config, path, summary, _ = both
    assert json.loads((path / "results.json").read_text()) == summary
    assert summary["seeds"] == [0, 1]
    assert summary["last_or_best"] == "last"
    architecture = models.create("resnet8", 4, width=0.25)
    for index, (student, scale) in enumerate(
        zip(summary["students"], config.student_scales, strict=True)
    ):
        expected = widths.scale(architecture.widths, scale, keep=("stem",))
        assert student["index"] == index + 1
        assert student["widths"] == dict(expected)
        variables = models.initialize(architecture.build(expected), 0, (8, 8, 1))
        assert student["params"] == sum(x.size for x in jax.tree.leaves(variables["params"]))
        for role in ("baseline", "distilled"):
            assert 0 <= student[role]["test"] <= 1
            assert student[role]["test"] == pytest.approx(np.mean(student[role]["per_seed"]))
        gain = 100 * (student["distilled"]["test"] - student["baseline"]["test"])
        assert student["gain_points"] == pytest.approx(gain)
        expected = gain / 100 / student["baseline"]["test"]
        assert student["relative_gain"] == pytest.approx(expected)
        # With two seeds t(.975, 1 degree of freedom) = 12.706, s / sqrt(2) = |difference| / 2.
        first, second = np.subtract(
            student["distilled"]["per_seed"], student["baseline"]["per_seed"]
        )
        half = 100 * 12.7062 * abs(first - second) / 2
        assert student["gain_half_width"] == pytest.approx(half, rel=1e-4)
    gains = [student["gain_points"] for student in summary["students"]]
    assert summary["mean_gain"]["points"] == pytest.approx(np.mean(gains))
    assert summary["mean_gain"]["half_width"] >= 0
    assert 0 <= summary["ensemble"]["test"] <= 1


def test_the_full_student_learns_the_small_set(both):
    # Four noisy patterns: the accuracy of guessing is .25.
    assert both[2]["students"][0]["baseline"]["test"] > 0.6
    assert both[2]["students"][0]["distilled"]["test"] > 0.6


def test_the_step_is_traced_once_for_all_seeds(both):
    assert both[3] == [False, True]  # The ensemble's step, then the baselines'.


def test_every_term_of_every_student_is_written(both):
    _, path, _, _ = both
    lines = records(path, "ensemble-seed1")
    assert [line["step"] for line in lines][:4] == [3, 6, 9, 12]
    for term in ("hard", "feature", "soft", "accuracy"):
        assert all(len(line[term]) == 2 for line in lines)
    assert all(len(line["hard"]) == 2 for line in records(path, "independent-seed0"))
    assert len(records(path, kind="validation")) == 8
    events = list((path / "tensorboard").rglob("events.out.*"))
    assert {event.parent.name for event in events} == {
        f"{method}-seed{seed}" for method in ("ensemble", "independent") for seed in (0, 1)
    }


def test_a_finished_experiment_is_read_not_trained(both, monkeypatch):
    config, path, summary, _ = both
    monkeypatch.setattr(Run, "_train_epoch", None)  # Any training fails.
    assert set(summary["throughput"]) == {"ensemble", "independent"}
    assert train(config, path) == summary


def test_evaluate_agrees_with_results(both):
    _, path, summary, _ = both
    found = {network["name"]: network for network in evaluate(path)["networks"]}
    for way, role, key in (
        ("distilled", "distilled", "ensemble"),
        ("alone", "baseline", "baseline_ensemble"),
    ):
        expected = {f"student {s['index']}": s[role]["per_seed"] for s in summary["students"]}
        expected["average of all"] = summary[key]["per_seed"]
        for name, values in expected.items():
            assert [run["accuracy"] for run in found[f"{name}, {way}"]["runs"]] == values
    assert evaluate(path, student=2)["networks"] == [
        found["student 2, distilled"],
        found["student 2, alone"],
    ]


def test_evaluate_refuses_what_is_not_there(both, tmp_path):
    with pytest.raises(ValueError, match="student is 3: this workdir has 1 to 2"):
        evaluate(both[1], student=3)
    with pytest.raises(ValueError, match=r"holds no kdjax run"):
        evaluate(tmp_path)


def test_report_draws_figures(both):
    _, path, summary, _ = both
    table, *figures = report.write(summary, path)
    assert [figure.name for figure in figures] == ["accuracy.png", "curves.png"]
    assert f"| 1 | 1.00 | {summary['students'][0]['params']:,} |" in table.read_text()
    for figure in figures:
        assert figure.read_bytes().startswith(b"\x89PNG")
    grid = results_grid(summary)
    assert len(grid.rows) == 4  # Two students, their average, and the mean of their gains.
    assert grid.columns[4:6] == ["baseline", "distilled"]


def test_the_test_split_is_read_once_for_each_run_when_nothing_is_left_to_train(
    small_config, tmp_path, monkeypatch
):
    events = []
    steps, evaluate = runner_module.Runner.steps, runner_module.Runner.evaluate
    monkeypatch.setattr(
        runner_module.Runner,
        "steps",
        lambda *given, **more: (events.append("step"), steps(*given, **more))[1],
    )
    monkeypatch.setattr(
        runner_module.Runner,
        "evaluate",
        lambda self, variables, split, *more: (
            events.append(split),
            evaluate(self, variables, split, *more),
        )[1],
    )
    small_config.update(method="both", epochs=1)
    train(small_config, tmp_path / "run")
    first = events.index("test")
    assert {"step", "validation"} <= set(events[:first])
    # Both methods test their last state and the state that was best on validation.
    assert "step" not in events[first:]
    assert events.count("test") == 4


def test_an_interrupted_run_ends_as_an_uninterrupted_one(small_config, tmp_path, interrupt_at):
    train(small_config, tmp_path / "whole")
    # The second signal comes with the last step of an epoch.
    stops = [("ensemble-seed0", step) for step in (3, 5, 9)]
    interrupt_at(stops, signal.SIGINT)
    for _ in range(3):
        with pytest.raises(Interrupted, match="SIGINT: ensemble-seed0 is saved at step"):
            train(small_config, tmp_path / "parts")
    summary = train(small_config, tmp_path / "parts")
    assert not stops
    whole = last_state(tmp_path / "whole", small_config)
    parts = last_state(tmp_path / "parts", small_config)
    chex.assert_trees_all_equal(whole, parts)
    uninterrupted = json.loads((tmp_path / "whole" / "results.json").read_text())
    for part in ("students", "ensemble", "other"):
        assert summary[part] == uninterrupted[part]
    assert records(tmp_path / "parts", kind="validation") == records(
        tmp_path / "whole", kind="validation"
    )
    steps = [line["step"] for line in records(tmp_path / "parts")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 18


KILLED = """
import os, signal, sys
from kdjax import cli
from kdjax.train.run.run import Run

original = Run._read

def read_and_die(self, window, pending, started):
    now = original(self, window, pending, started)
    if pending[1] == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return now

Run._read = read_and_die
cli.main(sys.argv[1:])
"""


def test_a_killed_run_ends_as_an_uninterrupted_one(small_config, tmp_path):
    overrides = [
        f"--config.{name}={value}"
        for name, value in configuration.flatten(small_config)
        if value != configuration.FIELDS[name].default
    ]
    command = [sys.executable, "-c", KILLED, "train", f"--workdir={tmp_path / 'killed'}"]
    killed = subprocess.run([*command, *overrides], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    # The run was killed in its third epoch, perhaps during a save.
    assert int(last_state(tmp_path / "killed", small_config).step) in (6, 12)
    train(small_config, tmp_path / "killed")
    train(small_config, tmp_path / "whole")
    chex.assert_trees_all_equal(
        last_state(tmp_path / "killed", small_config), last_state(tmp_path / "whole", small_config)
    )


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (0, "could not be saved at step 2, and is still at step 0"),
        (6, "at step 8; its last checkpoint is of"),
    ],
)
def test_a_stop_without_a_checkpoint_says_so(small_config, tmp_path, interrupt_at, kept, said):
    """On a full disk the last state is lost; the command must not end as if it were saved."""
    original = Checkpoints._write

    def write(self, kind, state, record):
        if int(state.step) <= kept:
            original(self, kind, state, record)
        else:
            self._writing[kind] = state, record
            self._give_up(kind, OSError("No space left on device"))

    small_config.checkpoint.every_epochs = 1
    interrupt_at([("ensemble-seed0", kept)])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match=said) as caught:
        patch.setattr(Checkpoints, "_write", write)
        train(small_config, tmp_path)
    assert not caught.value.saved


def test_a_best_checkpoint_from_the_future_is_made_anew(small_config, tmp_path):
    """The run died after it saved a best checkpoint and before it saved the next last one."""
    small_config.checkpoint.every_epochs = 3
    train(small_config, tmp_path)
    folder = tmp_path / "checkpoints" / "ensemble-seed0"
    best = Checkpoints(folder, read_only=True).latest_step("best")
    shutil.rmtree(folder / "last")
    (tmp_path / "results.json").unlink()
    summary = train(small_config, tmp_path)
    assert Checkpoints(folder, read_only=True).latest_step("best") == best
    assert summary["other"]["checkpoint"] == "best"


def test_a_finished_run_takes_more_seeds_and_no_more_epochs(small_config, tmp_path):
    small_config.epochs = 2
    first = train(small_config, tmp_path)
    small_config.epochs = 3
    written = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    with pytest.raises(
        workdir.WorkdirError,
        match=r"config\.epochs was 2, is 3: the run is finished and its test set has been read",
    ):
        train(small_config, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json*")} == written
    small_config.epochs = 2
    small_config.seeds = (0, 1)
    both = train(small_config, tmp_path)
    assert both["seeds"] == [0, 1] and "remarks" not in both
    for student, before in zip(both["students"], first["students"], strict=True):
        per_seed = student["distilled"]["per_seed"]
        assert per_seed[:1] == before["distilled"]["per_seed"] and len(per_seed) == 2
        assert student["distilled"]["test"] == pytest.approx(np.mean(per_seed))


def test_an_unfinished_run_may_grow_and_its_results_say_so(
    small_config, tmp_path, interrupt_at, capsys
):
    small_config.epochs = 2
    interrupt_at([("ensemble-seed0", 3)])
    with pytest.raises(Interrupted):
        train(small_config, tmp_path)
    small_config.epochs = 3
    summary = train(small_config, tmp_path)
    assert int(last_state(tmp_path, small_config).step) == 18
    (line,) = summary["remarks"]
    assert re.match(r"ensemble-seed0: epochs raised from 2 to 3 at step \d+; learning rate", line)
    assert line in capsys.readouterr().out.replace("\n", " ")
    assert train(small_config, tmp_path) == summary  # Read from the stored results.
    assert f"- {line}" in report.write(summary, tmp_path)[0].read_text()


def test_one_epoch_of_the_defaults_is_a_smoke_test(small_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    small_config.update_from_flattened_dict(
        {"epochs": 1, "weight_ramp.feature": "cosine", "evaluation.every_epochs": 3}
    )
    train(small_config, "~/run")
    assert load_student("~/run").step == 6
    said = capsys.readouterr().out
    for line in configuration.shortened(small_config):
        assert line in said
    assert len(configuration.shortened(small_config)) == 2
    # The last epoch is always evaluated, whatever the interval is.
    assert [record["step"] for record in records(tmp_path / "run", kind="validation")] == [6]
    # Half of the 6 steps warm up: the rate reaches its peak at the third step, then falls.
    rates = [record["learning_rate"] for record in records(tmp_path / "run")]
    assert rates == pytest.approx([0.1 * 2 / 3, 0.1, 0.1 * (0.5 + 0.5 * np.cos(np.pi * 2 / 3))])


def test_a_loss_that_is_not_finite_stops_with_step_term_and_checkpoint(small_config, tmp_path):
    small_config.schedule.learning_rate = 1e30
    small_config.schedule.warmup_epochs = 0.0
    with pytest.raises(
        NonFiniteError, match=r"not finite at step \d+: .*of student \d.*Last good checkpoint: none"
    ):
        train(small_config, tmp_path)


def test_a_changed_configuration_is_refused_by_field(both):
    config, path, _, _ = both
    changed = config.copy_and_resolve_references()
    changed.temperature = 3.0
    changed.optimizer.momentum = 0.8
    with pytest.raises(workdir.WorkdirError) as error:
        train(changed, path)
    assert "config.temperature was 2.0, is 3.0" in str(error.value)
    assert "config.optimizer.momentum was 0.9, is 0.8" in str(error.value)


def test_a_checkpoint_of_another_network_is_refused(both):
    config, path, _, _ = both
    other = config.copy_and_resolve_references()
    other.student_scales = (1.0, 0.25)
    with pytest.raises(CheckpointError, match="another network: its student_widths"):
        last_state(path, other)

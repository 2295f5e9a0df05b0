"""The contents of results: missing values are None, and nothing on disk is NaN."""

import json

import numpy as np
import pytest

from kdjax import atomic, costs, models, widths
from kdjax.train.run.metrics import MetricsWriter
from kdjax.train.tasks import results
from kdjax.train.tasks.experiment import resolve
from kdjax.train.tasks.train import stem_changes


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def test_one_seed_has_neither_deviation_nor_interval():
    assert results.over_seeds([0.5], "test") == {
        "test": 0.5,
        "test_std": None,
        "test_half_width": None,
        "per_seed": [0.5],
    }
    assert results.over_seeds([], "val") == {"val": None, "val_std": None, "val_half_width": None}
    assert results.gain([0.5], [0.75]) == {
        "gain_points": 25.0,
        "gain_points_std": None,
        "gain_half_width": None,
        "relative_gain": 0.5,
        "relative_gain_std": None,
    }


def test_gains_are_paired():
    # The differences are 1, 2 and 3 points, although accuracies vary by tens of points. The half
    # width is 4.3027 * 1 / sqrt(3).
    gain = results.gain([0.40, 0.50, 0.60], [0.41, 0.52, 0.63])
    assert gain["gain_points"] == pytest.approx(2)
    assert gain["gain_points_std"] == pytest.approx(1)
    assert gain["gain_half_width"] == pytest.approx(2.484, abs=5e-4)
    assert gain["relative_gain"] == pytest.approx(0.02 / 0.5)
    assert gain["relative_gain_std"] == pytest.approx(0.01 / 0.5)


def test_the_mean_gain_is_that_of_each_seed_first():
    students = [
        {"baseline": {"per_seed": [0.5, 0.5]}, "distilled": {"per_seed": [0.51, 0.53]}},
        {"baseline": {"per_seed": [0.2, 0.2]}, "distilled": {"per_seed": [0.23, 0.21]}},
    ]
    # Each student's gain varies by 2 points, in opposite directions; every seed's mean is 2.
    found = results.mean_gain(students)
    assert found["points"] == pytest.approx(2)
    assert found["half_width"] == pytest.approx(0, abs=1e-9)


def test_a_baseline_of_nothing_has_no_relative_gain():
    gain = results.gain([0.0, 0.0], [0.25, 0.25])
    assert gain["relative_gain"] is None and gain["relative_gain_std"] is None
    json.dumps(gain, allow_nan=False)


def test_files_hold_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "results.json", {"test": float("nan")})
    assert not list(tmp_path.iterdir())
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.start("run", 0)
    writer.write("train", 1, {"loss": float("nan"), "accuracy": [0.5, float("inf")]})
    writer.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=no_constant)
    assert (line["loss"], line["accuracy"]) == (None, [0.5, None])


@pytest.fixture
def full_disk(monkeypatch):
    """Makes every new file fail, as on a full disk."""

    def refuse(path, content):
        raise OSError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(atomic, "write", refuse)


def steps_of(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [(record["run"], record["step"]) for record in map(json.loads, lines)]


def test_metrics_go_on_on_a_full_disk(tmp_path, full_disk, caplog):
    """One run begins; another continues and replaces its last line. Neither needs free space."""
    for run, start, steps in (("a", 0, (1,)), ("b", 0, (1, 2, 3)), ("b", 2, (3,))):
        writer = MetricsWriter(tmp_path, tensorboard=False)
        writer.start(run, start)
        for step in steps:
            writer.write("train", step, {"loss": 1.0})
        writer.close()
    assert steps_of(tmp_path) == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]
    assert not caplog.records


def test_metrics_that_cannot_be_taken_back_are_warned_of(tmp_path, full_disk, caplog):
    line = '{"run": "a", "kind": "train", "step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(line + line.replace('"a"', '"b"'))
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.start("a", 1)
    writer.write("train", 2, {"loss": 1.0})
    writer.close()
    assert steps_of(tmp_path) == [("a", 2), ("b", 2), ("a", 2)]
    assert "No space left on device; it keeps the lines of a after step 1" in caplog.text


def test_numbers_of_numpy_become_plain_ones():
    entry = results.over_seeds(list(np.array([0.5, 0.75])), "test")
    assert json.loads(json.dumps(entry))["test"] == 0.625


def test_a_stem_that_changes_in_an_ensemble_is_named_with_its_cost(
    small_config, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    architecture = models.create("resnet8", 4, width=0.25)
    full = architecture.widths
    thin = widths.scale(full, 0.5)
    for name, vector in (("full", full), ("thin", thin)):
        widths.save(vector, tmp_path / f"{name}.json")
    small_config.student_widths = ("~/full.json", "~/thin.json")
    experiment = resolve(small_config)
    taken = experiment.student_widths[1]
    assert (thin["stem"], taken["stem"]) == (2, 4)
    before, after = (costs.count(architecture, each, (8, 8, 1)).params for each in (thin, taken))
    (line,) = stem_changes(experiment)
    assert "thin.json: all students share" in line and "stem from 2 to 4 channels" in line
    assert f"{after:,} parameters" in line and f"not {before:,} and" in line
    small_config.method = "independent"
    assert stem_changes(resolve(small_config)) == []

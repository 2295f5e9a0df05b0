"""kdjax accepts the studies' commands, and their summary is computed as described."""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdjax import config as configuration
from kdjax.cli import read_config

FOLDER = Path(__file__).parents[2] / "experiments" / "proof"
sys.path.insert(0, str(FOLDER))
difference, record, run, studies, summarize = (
    importlib.import_module(name)
    for name in ("difference", "record", "run", "studies", "summarize")
)
ROWS = [(name, row) for name, study in studies.STUDIES.items() for row in study.rows]


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path("saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_a_stopped_study_waits_until_its_run_has_saved(tmp_path):
    code = f"import run, sys; sys.exit(run.finish([sys.executable, '-c', {SAVES!r}]))"
    study = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(FOLDER)!r}); {code}"],
        cwd=tmp_path,
    )
    while not (tmp_path / "ready").exists():
        assert study.poll() is None
        time.sleep(0.05)
    study.terminate()
    assert study.wait(30) == 143  # With 0 the next row would begin.
    assert (tmp_path / "saved").exists()
    assert run.finish([sys.executable, "-c", "import sys; sys.exit(3)"]) == 3


def test_seeds_are_so_many_or_from_one_to_another():
    assert list(run.seed_range("3")) == [0, 1, 2]
    assert list(run.seed_range("6:9")) == [6, 7, 8]
    for empty in ("0", "3:3", "-1:2"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{empty} names no seeds"):
            run.seed_range(empty)


@pytest.mark.parametrize(("name", "row"), ROWS, ids=map("/".join, ROWS))
def test_a_row_is_a_command(name, row, tmp_path):
    study = studies.STUDIES[name]
    command = run.command(study, row, (3,), tmp_path)
    config, _, *overrides = command[4:]
    task = study.rows[row].task
    assert command[3] == task
    made = read_config(config.removeprefix("--config="), overrides, task)
    configuration.validate(made)
    assert made.seeds == (3,)
    for path in made.get("student_widths", ()):  # From earlier searches.
        found, seed, _ = Path(path).relative_to(tmp_path).parts
        assert study.rows[found].task == "search"
        assert list(study.rows).index(found) < list(study.rows).index(row)
        assert seed == "seed3"
    against = study.rows[row].against
    baselines = studies.STUDIES[study.baselines or name].rows
    assert task in ("search", "distill") or not against or against in baselines


def entry(*per_seed):
    return {"test": sum(per_seed) / len(per_seed), "per_seed": list(per_seed)}


def write(folder, results, config):
    folder.mkdir(parents=True)
    versions = {
        "device": "cpu",
        "processor": "a chip",
        "kdjax": "0.1",
        "jax": "0.10",
        "python": "3.11",
    }
    made = {"dataset": "digits", "network": "resnet8", "network_width": 0.5, **versions}
    (folder / "results.json").write_text(json.dumps({**results, "made_with": made}))
    (folder / "config.json").write_text(json.dumps(config))


def test_gains_are_paired_by_seed(tmp_path, monkeypatch):
    config = {"data": {"labels_per_class": 500}, "epochs": 60}
    name = "cifar10_5000"
    for seed, accuracies in enumerate([(0.6, 0.5), (0.62, 0.52), (0.1, 0.1)]):
        write(
            tmp_path / name / "alone" / f"seed{seed}",
            {
                "seeds": [seed],
                "students": [{"baseline": entry(one)} for one in accuracies],
                "baseline_ensemble": entry(0.6),
            },
            config,
        )
    for seed, accuracies in enumerate([(0.61, 0.53), (0.65, 0.55)]):
        write(
            tmp_path / name / "strong" / f"seed{seed}",
            {
                "seeds": [seed],
                "students": [{"distilled": entry(one)} for one in accuracies],
                "ensemble": entry(0.64 + 0.02 * seed),
            },
            config,
        )
    monkeypatch.setattr(sys, "argv", ["summarize", f"--workdir={tmp_path}", f"--out={tmp_path}"])
    summarize.main()
    (found,) = json.loads((tmp_path / "summary.json").read_text())["experiments"]
    assert "| +2.00 ± 12.71 | +3.00 ± 0.00 |" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / f"{name}.png").exists()
    assert (found["name"], found["labels"], found["epochs"]) == ("cifar10_5000/strong", 500, 60)
    assert found["seeds"] == [0, 1] and found["network"] == "resnet8 x 0.5"
    assert [one["gain"] for one in found["students"]] == pytest.approx([2.0, 3.0])
    # The first student gains 1 and 3 points: t(.975, 1) * sqrt(2) / sqrt(2).
    assert found["students"][0]["half_width"] == pytest.approx(12.7062, abs=1e-3)
    first = found["students"][0]
    gains = np.subtract(first["distilled_per_seed"], first["baseline_per_seed"])
    assert gains.tolist() == pytest.approx([1.0, 3.0])
    assert found["mean_gain"]["points"] == pytest.approx(2.5)
    assert found["ensemble"] == pytest.approx(65.0)


def test_a_row_is_set_against_the_control_too(tmp_path):
    config = {"data": {"labels_per_class": 500}, "epochs": 60}
    rows = {
        "alone": ((0.6, 0.5), (0.6, 0.5)),
        "stem": ((0.61, 0.5), (0.6, 0.51)),
        "strong": ((0.62, 0.53), (0.61, 0.51)),
    }
    for row, seeds in rows.items():
        kind = "baseline" if row == "alone" else "distilled"
        for seed, accuracies in enumerate(seeds):
            results = {"seeds": [seed], "students": [{kind: entry(one)} for one in accuracies]}
            average = "baseline_ensemble" if row == "alone" else "ensemble"
            folder = tmp_path / "cifar10_5000" / row / f"seed{seed}"
            write(folder, {**results, average: entry(0.6)}, config)
    control, found = (
        summarize.compare("cifar10_5000", row, record.found(tmp_path)) for row in ("stem", "strong")
    )
    assert "beyond" not in control
    beyond = found["beyond"]
    assert (beyond["row"], beyond["seeds"]) == ("stem", 2)
    # One seed gains 2 points (1 and 3 for its students), the other .5: t(.975, 1) * .75.
    assert beyond["points"] == pytest.approx(1.25)
    assert beyond["half_width"] == pytest.approx(12.7062 * 0.75, abs=1e-3)
    table = summarize.table([found, control])
    assert "| mean against `stem` |" in table and "| +1.25 ± 9.53 |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_two_rows_are_compared_by_student_and_seed(tmp_path, monkeypatch, capsys):
    wide = record.Run("cifar10_5000", "stem", [0, 1, 2], {}, [[60.0, 50.0, 1.0]] * 3, [], {}, {})
    gate = record.Run("cifar10_ablation", "gate", [1, 2], {}, [[61, 53], [63, 53]], [], {}, {})
    record.write(tmp_path / "runs.jsonl", [wide, gate])
    monkeypatch.setattr(difference, "__file__", str(tmp_path / "difference.py"))

    def printed(*seeds):
        rows = ("cifar10_ablation/gate", "cifar10_5000/stem")
        monkeypatch.setattr(sys, "argv", ["difference", *rows, *seeds])
        difference.main()
        return [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()[1:]]

    # Student 1 is better by 1 and 3 points: t(.975, 1) * sqrt(2) / sqrt(2).
    assert printed() == ["+2.00 ± 12.71", "+3.00 ± 0.00", "+2.50 ± 6.35"]
    assert printed("--seeds=2:9") == ["+3.00", "+3.00", "+3.00"]
    with pytest.raises(SystemExit):
        printed("--seeds=1")
    assert "the rows have no such seed in common" in capsys.readouterr().err


def test_a_search_is_compared_with_the_uniform_network(tmp_path):
    thin, uniform = ({"params": 9_000, "macs": m} for m in (3_200_000, 1_500_000))
    write(
        tmp_path / "cifar10_searched" / "half" / "seed0",
        {
            "seeds": [0],
            "teacher": {"test": 0.7},
            "candidates": [
                {"name": "compact, distilled", **thin, **entry(0.68)},
                {"name": "compact, alone", **thin, **entry(0.64)},
                {"name": "uniform, distilled", **uniform, **entry(0.67)},
            ],
        },
        {"data": {"labels_per_class": 0}, "distil": {"epochs": 60}},
    )
    found = summarize.compare("cifar10_searched", "half", record.found(tmp_path))
    assert found["students"][0]["gain"] == pytest.approx(1.0)
    assert (found["full"], found["found_alone"]) == pytest.approx((70.0, 64.0))
    assert found["labels"] == "all" and found["mean_gain"]["half_width"] is None
    table = summarize.search_table([found])
    assert "67.00 | +1.00 | -2.00 | +4.00 | 9,000, 9,000 | 3.20, 1.50 |" in table


def measured(row, *seeds, **beside):
    """Returns a run of two students whose accuracies identify row and seed."""
    networks = [[len(row) + seed, 1.0 + seed] for seed in seeds]
    return record.Run("cifar10_5000", row, list(seeds), {}, networks, [], beside, {})


def test_runs_outlive_their_workdirs(tmp_path):
    runs = [measured("strong", 2), measured("strong", 0, 1), measured("alone", 1)]
    record.write(tmp_path / "runs.jsonl", runs)
    assert record.read(tmp_path / "runs.jsonl") == runs
    assert record.read(tmp_path / "none.jsonl") == []
    new = [measured("strong", 10), measured("alone", 0, 1)]
    alone, *strong = record.merged(runs, new)
    assert alone == new[1]  # It has one more seed than the recorded run.
    assert [run.seeds for run in strong] == [[0, 1], [2], [10]]
    assert list(record.networks(strong)) == [0, 1, 2, 10]
    assert record.merged([new[1]], runs) == record.merged(runs[:2], [new[1]])
    with pytest.raises(ValueError, match=r"alone was recorded for seeds \[0, 1\] .* for \[1, 2\]"):
        record.merged([new[1]], [measured("alone", 1, 2)])


def test_what_stands_beside_is_a_mean_over_seeds(tmp_path):
    runs = [measured("strong", 0, 1, ensemble=60.0), measured("strong", 2, ensemble=[66.0])]
    assert summarize.beside(runs, "train", [0, 1, 2]) == {"ensemble": pytest.approx(62.0)}
    assert summarize.beside(runs, "train", [0, 1]) == {"ensemble": pytest.approx(60.0)}


def test_the_page_is_made_from_what_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "runs.jsonl").write_bytes((FOLDER / "runs.jsonl").read_bytes())
    monkeypatch.setattr(sys, "argv", ["summarize", f"--out={tmp_path}"])
    summarize.main()
    for name in ("summary.json", "tables.md"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()


def test_a_distillation_brings_its_baselines(tmp_path):
    write(
        tmp_path / "cifar10_distill" / "soft" / "seeds",
        {
            "seeds": [0, 1],
            "teachers": [{"test": 0.75}],
            "students": [{"baseline": entry(0.6, 0.62), "distilled": entry(0.63, 0.65)}],
        },
        {"data": {"labels_per_class": 500}, "epochs": 30},
    )
    found = summarize.compare("cifar10_distill", "soft", record.found(tmp_path))
    assert found["teacher"] == 75.0 and found["seeds"] == [0, 1]
    assert found["mean_gain"]["points"] == pytest.approx(3.0)
    assert "| 61.00 | | |" in summarize.table([found])


def test_unfinished_rows_have_no_entry(tmp_path):
    assert summarize.compare("cifar10_5000", "strong", record.found(tmp_path)) is None

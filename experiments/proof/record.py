"""The record of all runs: one line per run in ``runs.jsonl``, kept when workdirs are deleted."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from studies import STUDIES

from kdjax import atomic

UNIFORM = "uniform, distilled"  # The candidate that a searched network is compared with.
Accuracies = dict[int, list[float]]  # Seed -> accuracy of each network, in %.
_MADE_WITH = ("device", "processor", "cores", "kdjax", "jax", "python")


@dataclasses.dataclass(frozen=True)
class Run:
    """Test accuracies, in %, of a row that one command trained.

    Attributes:
      study: name of the study.
      row: name of the row.
      seeds: the seeds that the command trained.
      setting: ``data``, ``network``, ``labels`` (a number per class, or "all") and ``epochs``.
      networks: for each seed the accuracies of the trained networks, the widest first.
      baselines: for each seed the accuracies to compare with, if the same command trained these
        networks; otherwise empty.
      beside: further results. For students ``ensemble``: the accuracy of their averaged logits, for
        each seed, or one mean if only that was kept. For a distillation ``teacher``. For a search,
        by seed, ``full``, ``found_alone`` and ``costs`` of the found and the uniform network.
      made_with: versions, the kind of device and, except in old runs, the processor.
    """

    study: str
    row: str
    seeds: list[int]
    setting: Mapping[str, Any]
    networks: list[list[float]]
    baselines: list[list[float]]
    beside: Mapping[str, Any]
    made_with: Mapping[str, Any]

    @classmethod
    def finished(cls, study: str, row: str, workdir: Path) -> Self:
        """Reads the run of a finished workdir."""
        results = json.loads((workdir / "results.json").read_text())
        config = json.loads((workdir / "config.json").read_text())
        task, made = STUDIES[study].rows[row].task, results["made_with"]
        width = made["network_width"]
        length = config["distil"] if task == "search" else config
        networks, baselines, beside = _READERS[task](results)
        return cls(
            study,
            row,
            results["seeds"],
            {
                "data": made["dataset"],
                "network": made["network"] + (f" x {width:g}" if width != 1 else ""),
                "labels": config["data"]["labels_per_class"] or "all",
                "epochs": length["epochs"],
            },
            networks,
            baselines,
            beside,
            {name: made[name] for name in _MADE_WITH if name in made},
        )


def _percent(entry: Mapping[str, Any]) -> list[float]:
    return [round(100 * accuracy, 6) for accuracy in entry["per_seed"]]


def _by_seed(entries: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    return [list(one) for one in zip(*map(_percent, entries), strict=True)]


def _trained(results: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    networks = [student.get("distilled") or student["baseline"] for student in results["students"]]
    average = results.get("ensemble") or results["baseline_ensemble"]
    return _by_seed(networks), [], {"ensemble": _percent(average)}


def _distilled(results: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    networks, baselines = (
        _by_seed(student[role] for student in results["students"])
        for role in ("distilled", "baseline")
    )
    return networks, baselines, {"teacher": 100 * results["teachers"][0]["test"]}


def _searched(results: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    candidates = {entry["name"]: entry for entry in results["candidates"]}
    found, uniform = candidates["compact, distilled"], candidates[UNIFORM]
    count = len(results["seeds"])
    beside = {
        "full": [100 * results["teacher"]["test"]] * count,
        "found_alone": _percent(candidates["compact, alone"]),
        "costs": {
            kind: {cost: [entry[cost]] * count for cost in ("params", "macs")}
            for kind, entry in (("found", found), ("uniform", uniform))
        },
    }
    return _by_seed([found]), _by_seed([uniform]), beside


_READERS = {"train": _trained, "distill": _distilled, "search": _searched}


def found(workdir: Path) -> list[Run]:
    """Returns all finished runs in a workdir of ``run.py``."""
    return [
        Run.finished(study, row, results.parent)
        for study in STUDIES
        for row in STUDIES[study].rows
        for results in (workdir / study / row).glob("seed*/results.json")
    ]


def read(path: Path) -> list[Run]:
    """Returns the runs in a file, or an empty list if the file does not exist."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Run(**json.loads(line)) for line in lines]


def write(path: Path, runs: Iterable[Run]) -> None:
    """Writes one line for each run, in the given order."""
    lines = [json.dumps(dataclasses.asdict(run), allow_nan=False) + "\n" for run in runs]
    atomic.write(path, "".join(lines))


def merged(recorded: Iterable[Run], finished: Iterable[Run]) -> list[Run]:
    """Merges recorded runs and those of a workdir, and sorts them by study, row and seeds.

    A finished run that has all seeds of a recorded run replaces it. A finished run is left out if a
    recorded run has all its seeds and more.

    Raises:
      ValueError: if a finished run has only some of a recorded run's seeds, and also other seeds.
    """
    runs = list(recorded)
    for new in finished:
        before = [run for run in of_row(runs, new.study, new.row) if {*run.seeds} & {*new.seeds}]
        if any({*new.seeds} < {*run.seeds} for run in before):
            continue
        if clash := [run.seeds for run in before if not {*run.seeds} <= {*new.seeds}]:
            raise ValueError(
                f"{new.study}/{new.row} was recorded for seeds {clash[0]} and is there for "
                f"{new.seeds}: train all of the recorded ones, or none of them"
            )
        runs = [*(run for run in runs if run not in before), new]
    order = {row: place for place, row in enumerate(_rows())}
    return sorted(runs, key=lambda run: (order[run.study, run.row], run.seeds))


def _rows() -> list[tuple[str, str]]:
    return [(study, row) for study in STUDIES for row in STUDIES[study].rows]


def of_row(runs: Iterable[Run], study: str, row: str) -> list[Run]:
    """Returns the runs of one row, in their order in ``runs``."""
    return [run for run in runs if (run.study, run.row) == (study, row)]


def networks(runs: Iterable[Run]) -> Accuracies:
    """Returns the accuracies of the networks that a row trained, by seed."""
    return {s: one for run in runs for s, one in zip(run.seeds, run.networks, strict=True)}


def baselines(runs: Iterable[Run]) -> Accuracies:
    """Returns the accuracies of the baselines that a row trained itself, by seed."""
    return {s: one for run in runs for s, one in zip(run.seeds, run.baselines, strict=True)}


def differences(row: Accuracies, other: Accuracies) -> dict[int, np.ndarray]:
    """Returns by how many points each network of a row is better, for each seed that both have.

    A row may leave out the thinnest students; then the other row's widest are compared.
    """
    return {
        seed: np.subtract(row[seed], other[seed][: len(row[seed])])
        for seed in sorted(row.keys() & other.keys())
    }

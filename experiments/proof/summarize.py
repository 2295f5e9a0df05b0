"""Makes ``summary.json`` and the tables of the page from the workdirs of finished rows.

    python experiments/proof/summarize.py --workdir=DIR

A row counts for the seeds that it and ``alone`` have both finished.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from studies import STUDIES

from kdjax.statistics import half_width

HERE = Path(__file__).parent


def finished(folder: Path) -> dict[int, dict[str, Any]]:
    """Seed -> ``results.json`` of the runs of a row."""
    return {
        int(path.parent.name.removeprefix("seed")): json.loads(path.read_text())
        for path in sorted(folder.glob("seed*/results.json"))
    }


def accuracies(results: dict[str, Any], role: str) -> list[float]:
    """Test accuracy of each student, in %."""
    return [100 * student[role]["test"] for student in results["students"]]


def compare(name: str, row: str, workdir: Path) -> dict[str, Any] | None:
    """One entry of ``summary.json``; None if no seed is finished in both rows."""
    study = STUDIES[name]
    alone, taught = finished(workdir / name / "alone"), finished(workdir / name / row)
    seeds = sorted(alone.keys() & taught.keys())
    if not seeds:
        return None
    baseline = np.array([accuracies(alone[seed], "baseline") for seed in seeds])
    distilled = np.array([accuracies(taught[seed], "distilled") for seed in seeds])
    gains = distilled - baseline
    ensembles = [100 * taught[seed]["ensemble"]["test"] for seed in seeds]
    config = json.loads((workdir / name / row / f"seed{seeds[0]}" / "config.json").read_text())
    made = taught[seeds[0]]["made_with"]
    return {
        "name": f"{name}/{row}",
        "what": study.rows[row][0],
        "data": made["dataset"],
        "network": made["network"],
        "labels": config["data"]["labels_per_class"] or "all",
        "epochs": config["epochs"],
        "seeds": seeds,
        "students": [
            {
                "baseline": float(baseline[:, i].mean()),
                "distilled": float(distilled[:, i].mean()),
                "gain": float(gains[:, i].mean()),
                "half_width": half_width(gains[:, i]),
            }
            for i in range(gains.shape[1])
        ],
        "mean_gain": {
            "points": float(gains.mean()),
            "half_width": half_width(gains.mean(axis=1)),
        },
        "ensemble": float(np.mean(ensembles)),
    }


def with_interval(points: float, half: float | None, sign: str = "+") -> str:
    text = f"{points:{sign}.2f}"
    return text if half is None else f"{text} ± {half:.2f}"


def table(entries: list[dict[str, Any]]) -> str:
    """Markdown: a row for each entry, gains in points with 95 % intervals."""
    students = len(entries[0]["students"])
    head = [*(f"s{i}" for i in range(1, students + 1)), "mean gain", "average of all"]
    first = entries[0]["students"]
    lines = [
        f"| | {' | '.join(head)} |",
        "| --- |" + " ---: |" * len(head),
        "| alone, % | " + " | ".join(f"{s['baseline']:.2f}" for s in first) + " | | |",
    ]
    for entry in entries:
        gains = [with_interval(s["gain"], s["half_width"]) for s in entry["students"]]
        mean = with_interval(
            **dict(zip(("points", "half"), entry["mean_gain"].values(), strict=True))
        )
        seeds = len(entry["seeds"])
        name = f"{entry['what']} ({seeds} seed{'s' * (seeds > 1)})"
        lines.append(f"| {name} | {' | '.join([*gains, mean, format(entry['ensemble'], '.2f')])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=HERE / "summary.json")
    options = parser.parse_args()
    entries = []
    for name, study in STUDIES.items():
        rows = [row for row in study.rows if row != "alone"]
        found = [entry for row in rows if (entry := compare(name, row, options.workdir))]
        if found:
            print(f"\n{study.question} ({name})\n\n{table(found)}")
        entries += found
    text = json.dumps({"experiments": entries}, indent=2, allow_nan=False)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

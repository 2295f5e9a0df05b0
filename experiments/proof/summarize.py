"""Makes ``summary.json``, ``tables.md`` and a figure of each study from finished workdirs.

    python experiments/proof/summarize.py --workdir=DIR

A row counts for the seeds that it and the row it is compared with have both finished.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row
from studies import STUDIES, Study

from kdjax.report.drawing import new_figure, save_figure
from kdjax.statistics import half_width

HERE = Path(__file__).parent
UNIFORM = "uniform, distilled"  # The rival of a search.
Accuracies = dict[int, list[float]]  # Of each student by seed, in %.


def results_of(folder: Path) -> list[dict[str, Any]]:
    """All ``results.json`` of a row, one for each workdir, in the order of their seeds."""
    found = [json.loads(path.read_text()) for path in folder.glob("seed*/results.json")]
    return sorted(found, key=lambda results: results["seeds"])


def students(found: list[dict[str, Any]]) -> Accuracies:
    """Test accuracies of a row's students, whichever method trained them."""
    accuracies: Accuracies = {}
    for results in found:
        for place, seed in enumerate(results["seeds"]):
            trained = [
                student.get("distilled") or student["baseline"] for student in results["students"]
            ]
            accuracies[seed] = [100 * entry["per_seed"][place] for entry in trained]
    return accuracies


def pairs(found: list[dict[str, Any]]) -> tuple[Accuracies, Accuracies]:
    """Test accuracies of a row's students, alone and distilled beside each other."""
    alone, taught = ({}, {})
    for results in found:
        for place, seed in enumerate(results["seeds"]):
            for role, accuracies in (("baseline", alone), ("distilled", taught)):
                accuracies[seed] = [100 * s[role]["per_seed"][place] for s in results["students"]]
    return alone, taught


def candidate(found: list[dict[str, Any]], name: str) -> Accuracies:
    """Test accuracies of one network of a row of searches."""
    accuracies: Accuracies = {}
    for results in found:
        entry = next(entry for entry in results["candidates"] if entry["name"] == name)
        for seed, accuracy in zip(results["seeds"], entry["per_seed"], strict=True):
            accuracies[seed] = [100 * accuracy]
    return accuracies


def costs(found: list[dict[str, Any]], name: str, cost: str) -> list[int]:
    """Parameters or multiply-accumulates of one network of each search."""
    return [
        entry[cost] for results in found for entry in results["candidates"] if entry["name"] == name
    ]


def compare(name: str, row: str, workdir: Path) -> dict[str, Any] | None:
    """One entry of ``summary.json``; None if no seed is finished in both rows."""
    study = STUDIES[name]
    wanted = study.rows[row]
    found = results_of(workdir / name / row)
    baselines, trained = compared(wanted, found, workdir / (study.baselines or name))
    seeds = sorted(baselines.keys() & trained.keys())
    if not seeds:
        return None
    distilled = np.array([trained[seed] for seed in seeds])
    # Where the thinnest are left out, the others are compared.
    baseline = np.array([baselines[seed] for seed in seeds])[:, : distilled.shape[1]]
    gains = distilled - baseline
    folder = workdir / name / row / ("seeds" if study.one_run else f"seed{seeds[0]}")
    config = json.loads((folder / "config.json").read_text())
    made = found[0]["made_with"]
    return {
        "name": f"{name}/{row}",
        "what": wanted.what,
        "against": wanted.against,
        "data": made["dataset"],
        "network": made["network"],
        "labels": config["data"]["labels_per_class"] or "all",
        "epochs": config["distil"]["epochs"] if wanted.task == "search" else config["epochs"],
        "seeds": seeds,
        "students": [
            {
                "baseline": float(baseline[:, i].mean()),
                "distilled": float(distilled[:, i].mean()),
                "gain": float(gains[:, i].mean()),
                "half_width": half_width(gains[:, i]),
                "baseline_per_seed": baseline[:, i].round(3).tolist(),
                "distilled_per_seed": distilled[:, i].round(3).tolist(),
            }
            for i in range(gains.shape[1])
        ],
        "mean_gain": {
            "points": float(gains.mean()),
            "half_width": half_width(gains.mean(axis=1)),
        },
        **beside(wanted, found, seeds),
        **further(study, row, trained, workdir / (study.baselines or name)),
    }


def further(
    study: Study, row: str, trained: Accuracies, baselines: Path
) -> dict[str, dict[str, Any]]:
    """What a row gains beyond the study's reference, on average over the students that it has."""
    if not study.reference or row == study.reference:
        return {}
    reference = students(results_of(baselines / study.reference))
    pairs = [
        (trained[seed], reference[seed][: len(trained[seed])])
        for seed in sorted(trained.keys() & reference.keys())
    ]
    if not pairs:
        return {}
    points = np.array([np.mean(np.subtract(*pair)) for pair in pairs])
    gain = {"points": float(points.mean()), "half_width": half_width(points)}
    return {"beyond": {"row": study.reference, "seeds": len(pairs), **gain}}


def compared(
    row: Row, found: list[dict[str, Any]], baselines: Path
) -> tuple[Accuracies, Accuracies]:
    """Test accuracies of a row's baselines, and of what the row trained."""
    if row.task == "search":
        return candidate(found, UNIFORM), candidate(found, "compact, distilled")
    if row.task == "distill":
        return pairs(found)
    return students(results_of(baselines / row.against)), students(found)


def beside(row: Row, found: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """What else a row says, in %: of the teacher, of the structure alone, or of all students.

    Of searches also what the networks cost, one for each seed.
    """
    if row.task == "search":
        alone = candidate(found, "compact, alone")
        return {
            "found_alone": float(np.mean([alone[seed][0] for seed in seeds])),
            "full": float(np.mean([100 * results["teacher"]["test"] for results in found])),
            "full_per_seed": [100 * results["teacher"]["test"] for results in found],
            "found_alone_per_seed": [alone[seed][0] for seed in seeds],
            "costs": {
                kind: {cost: costs(found, name, cost) for cost in ("params", "macs")}
                for kind, name in (("found", "compact, distilled"), ("uniform", UNIFORM))
            },
        }
    if row.task == "distill":
        return {"teacher": 100 * found[0]["teachers"][0]["test"]}
    averages = {}
    for results in found:
        accuracies = (results.get("ensemble") or results["baseline_ensemble"])["per_seed"]
        averages.update(zip(results["seeds"], accuracies, strict=True))
    return {"ensemble": float(np.mean([100 * averages[seed] for seed in seeds]))}


def with_interval(points: float, half: float | None) -> str:
    text = f"{points:+.2f}"
    return text if half is None else f"{text} ± {half:.2f}"


def _gain(gain: dict[str, Any]) -> str:
    return with_interval(gain.get("gain", gain.get("points")), gain["half_width"])


def _named(entry: dict[str, Any]) -> str:
    seeds = len(entry["seeds"])
    return f"{entry['what']} ({seeds} seed{'s' * (seeds > 1)})"


def table(entries: list[dict[str, Any]]) -> str:
    """Markdown: a row for each ensemble, gains in points with 95 % intervals."""
    widest = max(entries, key=lambda entry: len(entry["students"]))
    count = len(widest["students"])
    references = {entry["beyond"]["row"] for entry in entries if "beyond" in entry}
    beyond = [f"mean against `{row}`" for row in references]
    head = [*(f"s{i}" for i in range(1, count + 1)), "mean gain", *beyond, "average of all"]
    baselines = " | ".join(f"{s['baseline']:.2f}" for s in widest["students"])
    lines = [
        f"| | {' | '.join(head)} |",
        "| --- |" + " ---: |" * len(head),
        f"| {widest['against'].replace('_', ' ')}, % | {baselines} | |" + " |" * (1 + len(beyond)),
    ]
    for entry in entries:
        gains = [_gain(student) for student in entry["students"]]
        gains += [""] * (count - len(gains))
        last = f"{entry['ensemble']:.2f}" if "ensemble" in entry else ""
        set_against = [_gain(entry["beyond"]) if "beyond" in entry else "" for _ in beyond]
        cells = [*gains, _gain(entry["mean_gain"]), *set_against, last]
        lines.append(f"| {_named(entry)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def search_table(entries: list[dict[str, Any]]) -> str:
    """Markdown: a row for each search, accuracies in %, costs, the gain over uniform thinning."""
    head = ["full", "found, distilled", "found, alone", UNIFORM, "found over uniform"]
    head += [f"{cost}, found and uniform" for cost in ("parameters", "million MACs")]
    lines = [f"| | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for entry in entries:
        (found,) = entry["students"]
        numbers = (entry["full"], found["distilled"], entry["found_alone"], found["baseline"])
        own, uniform = (
            [np.mean(entry["costs"][kind][cost]) for cost in ("params", "macs")]
            for kind in ("found", "uniform")
        )
        cells = [*(f"{number:.2f}" for number in numbers), _gain(found)]
        cells.append(f"{own[0]:,.0f}, {uniform[0]:,.0f}")
        cells.append(f"{own[1] / 1e6:.2f}, {uniform[1] / 1e6:.2f}")
        lines.append(f"| {_named(entry)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(name: str, entries: list[dict[str, Any]], path: Path) -> Path:
    """Mean gains over students with their intervals, a line for each row of a study."""
    figure, (axis,) = new_figure(1, size=(8.0, 1.2 + 0.4 * len(entries)))
    for place, entry in enumerate(entries):
        gain = entry["mean_gain"]
        axis.errorbar(
            gain["points"], -place, xerr=gain["half_width"] or 0.0, fmt="o", capsize=4, color="C0"
        )
    axis.axvline(0.0, color="black", ls=":")
    axis.set_yticks([-place for place in range(len(entries))], [_named(one) for one in entries])
    axis.set_xlabel("mean gain in points, 95 % intervals")
    axis.set_title(name.replace("_", " "), fontsize=11)
    return save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR")
    options = parser.parse_args()
    entries, page = [], ["# All rows that are finished"]
    for name, study in STUDIES.items():
        found = [
            entry
            for row, wanted in study.rows.items()
            if wanted.against and (entry := compare(name, row, options.workdir))
        ]
        if not found:
            continue
        page.append(f"## {study.question}\n\n`--study={name}`")
        if searches := [entry for entry in found if "full" in entry]:
            page.append(search_table(searches))
        against = dict.fromkeys(entry["against"] for entry in found if "full" not in entry)
        page += [table([e for e in found if e["against"] == baseline]) for baseline in against]
        figure = draw(name, found, options.out / f"{name}.png")
        page.append(f"![Gains]({figure.name})")
        entries += found
    text = json.dumps({"experiments": entries}, indent=2, allow_nan=False)
    # The values of all seeds stand on one line.
    text = re.sub(r"\[[-\d.,\se]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    (options.out / "summary.json").write_text(text + "\n")
    (options.out / "tables.md").write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()

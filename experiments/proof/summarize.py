"""Makes ``summary.json``, ``tables.md`` and a figure for each study from the recorded runs.

    python experiments/proof/summarize.py [--workdir=DIR]

Finished runs of a workdir are first added to ``runs.jsonl``, which already has the runs of earlier
workdirs. A row counts for the seeds that both it and the row it is compared with have finished.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from record import UNIFORM, Accuracies, Run
from studies import STUDIES, Study

from kdjax.report.drawing import new_figure, save_figure
from kdjax.statistics import half_width

HERE = Path(__file__).parent
HEAD = """# All rows that are finished

Test accuracy in %, gains in points with 95 % intervals over seeds. s1 is the widest student.
`average of all` is the students' averaged logits, with their shares in the teacher of the row."""
# Panels of the figure with the gains of each student: title -> study and row. Each panel also shows
# the control row `stem`.
HEADLINES = {
    "digits, 200 images": ("digits_rules", "strong"),
    "CIFAR-10, 5,000 images": ("cifar10_5000", "strong"),
    "CIFAR-10, 45,000 images": ("cifar10_50000", "strong"),
    "100 classes, 10,000 images": ("tin100a_10000", "strong"),
}


def compare(name: str, row: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Returns one entry of ``summary.json``, or None if no seed is finished in both rows."""
    study = STUDIES[name]
    wanted = study.rows[row]
    own = record.of_row(runs, name, row)
    trained = record.networks(own)
    of_baselines = study.baselines or name
    baselines = (
        record.networks(record.of_row(runs, of_baselines, wanted.against))
        if wanted.task == "train"
        else record.baselines(own)
    )
    seeds = sorted(baselines.keys() & trained.keys())
    if not seeds:
        return None
    distilled = np.array([trained[seed] for seed in seeds])
    # A row may leave out the thinnest students: compare only the students it has.
    baseline = np.array([baselines[seed] for seed in seeds])[:, : distilled.shape[1]]
    gains = distilled - baseline
    return {
        "name": f"{name}/{row}",
        "what": wanted.what,
        "against": wanted.against,
        **own[0].setting,
        "seeds": seeds,
        "students": [
            {
                "baseline": float(baseline[:, i].mean()),
                "distilled": float(distilled[:, i].mean()),
                "gain": float(gains[:, i].mean()),
                "half_width": half_width(gains[:, i]),
                "baseline_per_seed": baseline[:, i].tolist(),
                "distilled_per_seed": distilled[:, i].tolist(),
            }
            for i in range(gains.shape[1])
        ],
        "mean_gain": {
            "points": float(gains.mean()),
            "half_width": half_width(gains.mean(axis=1)),
        },
        **beside(own, wanted.task, seeds),
        **further(study, row, trained, record.of_row(runs, of_baselines, study.reference)),
    }


def further(
    study: Study, row: str, trained: Accuracies, reference: Sequence[Run]
) -> dict[str, dict[str, Any]]:
    """Returns a row's gain over the study's reference row, as a mean over the row's students."""
    if row == study.reference:
        return {}
    gains = record.differences(trained, record.networks(reference))
    if not gains:
        return {}
    points = np.array([gain.mean() for gain in gains.values()])
    gain = {"points": float(points.mean()), "half_width": half_width(points)}
    return {"beyond": {"row": study.reference, "seeds": len(gains), **gain}}


def beside(runs: Sequence[Run], task: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Returns a row's other accuracies, in %: teacher, found structure alone, or ensemble.

    For searches also the costs of the networks, one for each seed.
    """
    if task != "search":
        found = {}
        for name in runs[0].beside:
            by_seed = {
                seed: value
                for run in runs  # Some runs kept one mean over their seeds.
                for seed, value in zip(
                    run.seeds, np.broadcast_to(run.beside[name], len(run.seeds)), strict=True
                )
            }
            found[name] = float(np.mean([by_seed[seed] for seed in seeds]))
        return found
    runs_and_places = {seed: (run, run.seeds.index(seed)) for run in runs for seed in run.seeds}
    ordered = [runs_and_places[seed] for seed in seeds]
    full, alone = (
        [run.beside[name][place] for run, place in ordered] for name in ("full", "found_alone")
    )
    return {
        "found_alone": float(np.mean(alone)),
        "full": float(np.mean(full)),
        "full_per_seed": full,
        "found_alone_per_seed": alone,
        "costs": {
            kind: {
                cost: [run.beside["costs"][kind][cost][place] for run, place in ordered]
                for cost in ("params", "macs")
            }
            for kind in ("found", "uniform")
        },
    }


def rounded(value: Any) -> Any:
    """Rounds all numbers of an entry to six decimals, so that every machine writes the same."""
    if isinstance(value, float):
        return round(value, 6) + 0.0  # Turns -0.0 into 0.0.
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def with_interval(points: float, half: float | None) -> str:
    text = f"{points:+.2f}"
    return text if half is None else f"{text} ± {half:.2f}"


def _gain(gain: dict[str, Any]) -> str:
    return with_interval(gain.get("gain", gain.get("points")), gain["half_width"])


def _named(entry: dict[str, Any]) -> str:
    seeds = len(entry["seeds"])
    return f"{entry['what']} ({seeds} seed{'s' * (seeds > 1)})"


def _labelled(entry: dict[str, Any]) -> str:
    return f"`{entry['name'].split('/')[1]}`: {_named(entry)}"


def table(entries: list[dict[str, Any]]) -> str:
    """Returns Markdown with a row for each ensemble: gains in points with 95 % intervals."""
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
        lines.append(f"| {_labelled(entry)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def search_table(entries: list[dict[str, Any]]) -> str:
    """Returns Markdown with a row for each search: accuracies in %, differences, costs."""
    head = ["full", "found, distilled", "found, alone", UNIFORM]
    head += ["found over uniform", "over full", "the teacher's worth"]
    head += [f"{cost}, found and uniform" for cost in ("parameters", "million MACs")]
    lines = [f"| | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for entry in entries:
        (found,) = entry["students"]
        numbers = (entry["full"], found["distilled"], entry["found_alone"], found["baseline"])
        own, uniform = (
            [np.mean(entry["costs"][kind][cost]) for cost in ("params", "macs")]
            for kind in ("found", "uniform")
        )
        per_seed = np.array(found["distilled_per_seed"])
        further = [per_seed - entry[f"{other}_per_seed"] for other in ("full", "found_alone")]
        cells = [*(f"{number:.2f}" for number in numbers), _gain(found)]
        cells += [with_interval(points.mean(), half_width(points)) for points in further]
        cells.append(f"{own[0]:,.0f}, {uniform[0]:,.0f}")
        cells.append(f"{own[1] / 1e6:.2f}, {uniform[1] / 1e6:.2f}")
        lines.append(f"| {_labelled(entry)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(name: str, entries: list[dict[str, Any]], path: Path) -> Path:
    """Draws the gains averaged over students, with intervals, one line for each row of a study."""
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


def draw_students(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws each student's gain with its interval, a panel for each headline in ``entries``."""
    by_name = {entry["name"]: entry for entry in entries}
    panels = {
        words: (study, row)
        for words, (study, row) in HEADLINES.items()
        if f"{study}/{row}" in by_name
    }
    if not panels:
        return
    figure, axes = new_figure(len(panels), size=(3.2, 3.2))
    for axis, (words, (study, row)) in zip(axes, panels.items(), strict=True):
        for name, label, color in ((row, "taught", "C0"), ("stem", "shared stem alone", "C1")):
            if not (entry := by_name.get(f"{study}/{name}")):
                continue
            gains = [student["gain"] for student in entry["students"]]
            bars = [student["half_width"] or 0.0 for student in entry["students"]]
            places = np.arange(1, len(gains) + 1) + (0.12 if name == "stem" else -0.12)
            several = f"{len(entry['seeds'])} seed{'s' * (len(entry['seeds']) > 1)}"
            axis.errorbar(
                places, gains, bars, fmt="o", capsize=3, color=color, label=f"{label}, {several}"
            )
        axis.axhline(0.0, color="black", ls=":")
        axis.set_title(words, fontsize=10)
        axis.set_xlabel("student, widest to thinnest")
        axis.legend(fontsize=7, loc="upper left")
    axes[0].set_ylabel("gain over training alone, points")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="of run.py; adds its runs")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR")
    options = parser.parse_args()
    runs = record.read(options.out / "runs.jsonl")
    if options.workdir:
        runs = record.merged(runs, record.found(options.workdir))
        record.write(options.out / "runs.jsonl", runs)
    entries, page = [], [HEAD]
    for name, study in STUDIES.items():
        found = [
            rounded(entry)
            for row, wanted in study.rows.items()
            if wanted.against and (entry := compare(name, row, runs))
        ]
        if not found:
            continue
        page.append(f"## {name}\n\n{study.question}")
        if searches := [entry for entry in found if "full" in entry]:
            page.append(search_table(searches))
        against = dict.fromkeys(entry["against"] for entry in found if "full" not in entry)
        page += [table([e for e in found if e["against"] == baseline]) for baseline in against]
        figure = draw(name, found, options.out / f"{name}.png")
        page.append(f"![Gains]({figure.name})")
        entries += found
    draw_students(entries, options.out / "gains.png")
    text = json.dumps({"experiments": entries}, indent=2, allow_nan=False)
    # Write lists of numbers, such as the values of all seeds, on one line.
    text = re.sub(r"\[[-\d.,\se]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    (options.out / "summary.json").write_text(text + "\n")
    (options.out / "tables.md").write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()

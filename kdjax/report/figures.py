"""Results as figures: accuracy against parameters, and learning curves."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.drawing import new_figure, save_figure

_COLOURS = {"baseline": "#888888", "distilled": "#1f6fb4"}


def draw(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Draws the figures of an experiment into ``workdir/report``; returns their paths."""
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    paths = [_draw_accuracy(summary, folder / "accuracy.png")]
    curves = read_curves(workdir / "metrics.jsonl")
    if curves:
        paths.append(_draw_curves(curves, folder / "curves.png"))
    return paths


def read_curves(path: Path) -> dict[str, tuple[list[float], list[list[float]]]]:
    """Run -> (epochs, validation accuracies ``[evaluation][student]``) from ``metrics.jsonl``."""
    curves: dict[str, tuple[list[float], list[list[float]]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["kind"] == "validation":
            epochs, accuracies = curves.setdefault(record["run"], ([], []))
            epochs.append(record["epoch"])
            accuracies.append(record["accuracy"])
    return curves


def _draw_accuracy(summary: dict[str, Any], path: Path) -> Path:
    from matplotlib import ticker

    figure, axes = new_figure(1)
    students = summary["students"]
    for role, colour in _COLOURS.items():
        if role not in students[0]:
            continue
        axes[0].errorbar(
            [student["params"] for student in students],
            [100 * student[role]["test"] for student in students],
            [100 * student[role]["test_std"] for student in students],
            marker="o",
            capsize=3,
            color=colour,
            label=f"{role}, each student alone" if role == "baseline" else role,
        )
    if "ensemble" in summary:
        axes[0].axhline(
            100 * summary["ensemble"]["test"],
            color=_COLOURS["distilled"],
            ls=":",
            label="distilled, average of all students",
        )
    made = summary["made_with"]
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[0].xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes[0].xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_xlabel("parameters")
    axes[0].set_ylabel("test accuracy, %")
    axes[0].set_title(
        f"{made['network']} on {made['dataset']}, {len(summary['seeds'])} seeds (bars: 1 deviation)"
    )
    axes[0].legend()
    return save_figure(figure, path)


def _draw_curves(curves: dict[str, tuple[list[float], list[list[float]]]], path: Path) -> Path:
    methods = sorted({run.split("-seed")[0] for run in curves})
    figure, axes = new_figure(len(methods))
    for axis, method in zip(axes, methods, strict=True):
        runs = [curve for run, curve in curves.items() if run.startswith(f"{method}-seed")]
        shortest = min(len(epochs) for epochs, _ in runs)
        epochs = runs[0][0][:shortest]
        mean = 100 * np.mean([np.array(values[:shortest]) for _, values in runs], axis=0)
        for student in range(mean.shape[1]):
            axis.plot(epochs, mean[:, student], label=f"student {student + 1}")
        axis.set_title(f"{method}, mean of {len(runs)} seeds")
        axis.set_xlabel("epoch")
        axis.legend()
    axes[0].set_ylabel("validation accuracy, %")
    return save_figure(figure, path)

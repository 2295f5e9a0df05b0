"""Results as figures: accuracy against parameters, and learning curves."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.drawing import (
    COLOURS,
    error_bar,
    legend_below,
    named,
    new_figure,
    save_figure,
    seeds_text,
)

_METHODS = {"baseline": "independent", "distilled": "ensemble"}
_LABELS = {"baseline": "baseline, each student alone", "distilled": "distilled"}
_LINES = {"baseline": "--", "distilled": "-"}

# Run -> (epochs, validation accuracies [evaluation][student]).
Curves = dict[str, tuple[list[float], list[list[float]]]]


def draw(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Draws the figures of an experiment into ``workdir/report``; returns their paths."""
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    paths = [_draw_accuracy(summary, folder / "accuracy.png")]
    curves = read_curves(workdir / "metrics.jsonl")
    if curves:
        paths.append(_draw_curves(summary, curves, folder / "curves.png"))
    return paths


def read_curves(path: Path) -> Curves:
    """The validation accuracies in ``metrics.jsonl``."""
    curves: Curves = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["kind"] == "validation":
            epochs, accuracies = curves.setdefault(record["run"], ([], []))
            epochs.append(record["epoch"])
            accuracies.append(record["accuracy"])
    return curves


def _draw_accuracy(summary: dict[str, Any], path: Path) -> Path:
    figure, (axis, side) = new_figure(2, size=(4, 4.5), ratios=(6, 1))
    students = summary["students"]
    params = [student["params"] for student in students]
    averages = {"baseline": "baseline_ensemble", "distilled": "ensemble"}
    roles = [role for role in COLOURS if role in students[0]]
    for place, role in enumerate(roles):
        style = {"marker": "o", "capsize": 3, "color": COLOURS[role]}
        # Small shifts keep the bars of the two methods from covering each other.
        places = [(0.99, 1.01)[place] * count for count in params]
        means = [100 * student[role]["test"] for student in students]
        axis.plot(places, means, ls=_LINES[role], label=_LABELS[role], **_without_caps(style))
        for at, student in zip(places, students, strict=True):
            draw_interval(axis, at, student[role], style)
        draw_interval(side, place, summary[averages[role]], style)
    _count_axis(axis, params)
    axis.set_ylabel("test accuracy, %")
    side.set_xlim(-1, len(roles))
    side.set_xticks([(len(roles) - 1) / 2], ["average\nof all"])
    figure.suptitle(f"{named(summary)}, {seeds_text(summary['seeds'], 'bars')}")
    legend_below(figure, axis, 2)
    return save_figure(figure, path)


def draw_interval(axis: Any, place: float, entry: dict[str, Any], style: dict[str, Any]) -> None:
    """Draws a mean with its interval.

    Args:
      axis: a Matplotlib axis.
      place: the position on the horizontal axis.
      entry: an entry of the results, with ``test`` and ``test_half_width``.
      style: the style of the error bar.
    """
    bar = error_bar(entry["test"], entry["test_half_width"])
    axis.errorbar([place], [100 * entry["test"]], bar, **style)


def _without_caps(style: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in style.items() if name != "capsize"}


def _count_axis(axis: Any, counts: list[int]) -> None:
    """Makes the axis logarithmic, with a tick at each student unless ticks would overlap."""
    axis.set_xscale("log")
    room = 0.07 * max(math.log(max(counts) / min(counts)), 0.1)
    ticks: list[int] = []
    for count in sorted(counts):
        if not ticks or math.log(count / ticks[-1]) > room:
            ticks.append(count)
    axis.set_xticks(ticks, [_short(count) for count in ticks])
    axis.minorticks_off()
    axis.margins(x=0.08)
    axis.set_xlabel("parameters")


def _short(count: int) -> str:
    """A count in short form: 950, 1.6k, 31k, 1.7M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if count >= 0.995 * unit:
            number = count / unit
            return f"{number:.1f}{name}" if number < 9.95 else f"{number:.0f}{name}"
    return str(count)


def _draw_curves(summary: dict[str, Any], curves: Curves, path: Path) -> Path:
    students = summary["students"]
    columns = min(len(students), 3)
    rows = -(-len(students) // columns)
    figure, axes = new_figure(columns, rows=rows, size=(4.2, 3.2))
    for number, student in enumerate(students):
        axis = axes[number]
        for role, method in _METHODS.items():
            runs = [curve for run, curve in curves.items() if run.startswith(f"{method}-seed")]
            if role in student and runs:
                draw_band(axis, role, runs, number)
        axis.set_xlim(0, 1.05 * max(epochs[-1] for epochs, _ in curves.values()))
        axis.locator_params(axis="x", integer=True)
        axis.set_title(f"student {number + 1}, {student['params']:,} parameters", fontsize=10)
        if number % columns == 0:
            axis.set_ylabel("validation accuracy, %")
        if number + columns >= len(students):
            axis.set_xlabel("epoch")
    for axis in axes[len(students) :]:
        axis.set_visible(False)
    figure.suptitle(f"{named(summary)}, {spread_text(summary['seeds'])}")
    legend_below(figure, axes[0], 2)
    return save_figure(figure, path)


def spread_text(seeds: list[int]) -> str:
    """The number of seeds and, if there are several, what the bands show."""
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds (bands: lowest to highest)"


def draw_band(
    axis: Any,
    role: str,
    runs: list[tuple[list[float], list[list[float]]]],
    student: int,
    name: str = "",
) -> None:
    """Draws the mean over runs of one student's accuracy, and a band from lowest to highest.

    Args:
      axis: a panel.
      role: ``baseline`` or ``distilled``.
      runs: epochs and accuracies of each run.
      student: the index of the student in the accuracies, from 0.
      name: the name of the role in the legend; empty: ``role`` itself.
    """
    shortest = min(len(epochs) for epochs, _ in runs)
    epochs = runs[0][0][:shortest]
    # Values that were not finite are None on disk.
    values = [[row[student] for row in accuracies[:shortest]] for _, accuracies in runs]
    percents = 100 * np.array(values, np.float64)
    mean, low, high = percents.mean(axis=0), percents.min(axis=0), percents.max(axis=0)
    name = name or role
    label = f"{name}, mean of {len(runs)} runs" if len(runs) > 1 else name
    style = {"color": COLOURS[role], "ls": _LINES[role], "marker": "o", "ms": 3}
    axis.plot(epochs, mean, label=label, **style)
    axis.fill_between(epochs, low, high, color=COLOURS[role], alpha=0.2, lw=0)
    if shortest == 1:  # A band over a single epoch has no width, so it would not be visible.
        axis.vlines(epochs, low, high, color=COLOURS[role])

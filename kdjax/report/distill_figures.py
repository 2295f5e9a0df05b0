"""The results of a distillation as figures: accuracies beside each other, and learning curves."""

from pathlib import Path
from typing import Any

from kdjax.report.drawing import (
    COLOURS,
    legend_below,
    named,
    new_figure,
    save_figure,
    seeds_text,
)
from kdjax.report.figures import Curves, draw_band, draw_interval, read_curves, spread_text

_LABELS = {"baseline": "alone", "distilled": "distilled"}


def draw_distill(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Draws the figures of a distillation into ``workdir/report``; returns their paths."""
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    paths = [_draw_accuracy(summary, folder / "accuracy.png")]
    curves = read_curves(workdir / "metrics.jsonl")
    curves = {run: curve for run, curve in curves.items() if run.startswith("distil-seed")}
    if curves:
        paths.append(_draw_curves(summary, curves, folder / "curves.png"))
    return paths


def _draw_accuracy(summary: dict[str, Any], path: Path) -> Path:
    """Draws a column for each student, alone and distilled; a horizontal line is the teacher."""
    students = summary["students"]
    figure, (axis,) = new_figure(1, size=(3.0 + 1.2 * len(students), 4.5))
    roles = [role for role in COLOURS if role in students[0]]
    for shift, role in zip((-0.12, 0.12), roles, strict=False):
        style = {"marker": "o", "capsize": 4, "color": COLOURS[role]}
        for number, student in enumerate(students):
            draw_interval(axis, number + shift, student[role], style)
            own = [100 * value for value in student[role]["per_seed"]]
            if len(own) > 1:
                at = [number + 1.7 * shift] * len(own)
                axis.plot(at, own, "_", color=COLOURS[role], ms=8)
        axis.plot([], [], "o", color=COLOURS[role], label=_LABELS[role])
    several = len(summary["teachers"]) > 1
    teacher = summary["average_of_teachers"] if several else summary["teachers"][0]
    label = "average of teachers" if several else "teacher, one run"
    axis.axhline(100 * teacher["test"], color="black", ls=":", label=label)
    axis.set_xlim(-0.6, len(students) - 0.4)
    names = [f"student {s['index']}\n{s['params']:,} parameters" for s in students]
    axis.set_xticks(range(len(students)), names)
    axis.grid(visible=False, axis="x")
    axis.set_ylabel("test accuracy, %")
    shown = seeds_text(summary["seeds"], "strokes: each; bars")
    figure.suptitle(f"{named(summary)}\n{shown}", fontsize=11)
    legend_below(figure, axis, 3)
    return save_figure(figure, path)


def _draw_curves(summary: dict[str, Any], curves: Curves, path: Path) -> Path:
    students = summary["students"]
    columns = min(len(students), 3)
    rows = -(-len(students) // columns)
    figure, axes = new_figure(columns, rows=rows, size=(4.8, 3.4))
    runs = list(curves.values())
    for number, student in enumerate(students):
        axis = axes[number]
        # A run lists the distilled students first, then the same students alone.
        for place, role in enumerate(("distilled", "baseline")):
            if role in student:
                draw_band(axis, role, runs, place * len(students) + number, _LABELS[role])
        axis.set_xlim(0, 1.05 * max(epochs[-1] for epochs, _ in runs))
        axis.locator_params(axis="x", integer=True)
        axis.set_title(f"student {number + 1}, {student['params']:,} parameters", fontsize=10)
        axis.set_xlabel("epoch")
        if number % columns == 0:
            axis.set_ylabel("validation accuracy, %")
    for axis in axes[len(students) :]:
        axis.set_visible(False)
    figure.suptitle(f"{named(summary)}, {spread_text(summary['seeds'])}")
    legend_below(figure, axes[0], 2)
    return save_figure(figure, path)

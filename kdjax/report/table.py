"""The results of a training run as a table and in words."""

from typing import Any

from rich.console import Console

from kdjax.report.terminal import Grid, markdown, print_grids, print_text
from kdjax.report.words import direction, heading, percent, sentence, signed, unsigned


def results_grid(summary: dict[str, Any]) -> Grid:
    """A table with a row for each student, then their average and the mean of their gains.

    Accuracies are in %, gains in percentage points, both with half the width of their intervals
    over seeds.
    """
    title = heading(summary)
    pivot = summary["students"][0]
    roles = [role for role in ("baseline", "distilled") if role in pivot]
    both = len(roles) == 2
    columns = ["student", "width", "parameters", "MACs", *roles]
    columns += ["gain,\npoints", "relative\ngain, %"] if both else []
    rows = []
    for student in summary["students"]:
        row = [
            str(student["index"]),
            f"{_relative_width(student['widths'], pivot['widths']):.2f}",
            f"{student['params']:,}",
            f"{student['macs'] / 1e6:.2f} M",
            *(_accuracy(student[role]) for role in roles),
        ]
        if both:
            relative = student["relative_gain"]
            row.append(signed(student["gain_points"], student["gain_half_width"]))
            row.append(signed(None if relative is None else 100 * relative))
        rows.append(row)
    keys = {"baseline": "baseline_ensemble", "distilled": "ensemble"}
    averages = [_accuracy(summary[keys[role]]) for role in roles]
    rows.append(["average of all", "", "", "", *averages, *([""] * (2 * both))])
    if both:
        mean_gain = summary["mean_gain"]
        gain = signed(mean_gain["points"], mean_gain["half_width"])
        rows.append(["mean gain", "", "", "", "", "", gain, ""])
    # Left out in this order: relative gain, MACs, width, parameters, then the accuracies, which
    # the gain is computed from.
    least_first = [7, 3, 1, 2, 4, 5] if both else [3, 1, 2]
    return Grid(title, columns, rows, least_first)


def verdict(summary: dict[str, Any]) -> str:
    """What the table says about distillation, in one sentence; empty if nothing is compared."""
    if "mean_gain" not in summary:
        return ""
    mean_gain = summary["mean_gain"]
    text = sentence(
        "Distillation gains {} points on average over the students",
        "Distillation loses {} points on average over the students",
        "Distillation changes accuracy by {} points on average over the students",
        mean_gain["points"],
        mean_gain["half_width"],
        len(summary["seeds"]),
    )
    thinnest = min(summary["students"], key=lambda student: student["params"])
    gain, half_width = thinnest["gain_points"], thinnest["gain_half_width"]
    if way := direction(gain, half_width):
        verb = "gains" if way > 0 else "loses"
        return f"{text}; the thinnest student {verb} {unsigned(gain, half_width)}."
    return f"{text}; for the thinnest student it is {signed(gain, half_width)}."


def print_table(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints :func:`results_grid` and :func:`verdict`."""
    print_grids([results_grid(summary)], console, whole="report/table.md and results.json")
    if text := verdict(summary):
        print_text(text, console)


def table_markdown(summary: dict[str, Any]) -> str:
    """Returns :func:`results_grid` and :func:`verdict` as Markdown."""
    text = verdict(summary)
    return markdown(results_grid(summary)) + (f"\n{text}\n" if text else "")


def _accuracy(entry: dict[str, Any]) -> str:
    return percent(entry["test"], entry["test_half_width"])


def _relative_width(widths: dict[str, int], pivot: dict[str, int]) -> float:
    return sum(widths.values()) / sum(pivot.values())

"""Results as tables on the terminal."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def results_table(summary: dict[str, Any]) -> Table:
    """The comparison: a row per student, accuracies in %, means and deviations over seeds."""
    seeds = ", ".join(map(str, summary["seeds"]))
    made = summary["made_with"]
    table = Table(
        title=f"{made['network']} on {made['dataset']}: test accuracy of the "
        f"{summary['last_or_best']} checkpoint, %, over seeds {seeds}"
    )
    columns = ["student", "width", "parameters", "MACs"]
    columns += [role for role in ("baseline", "distilled") if role in summary["students"][0]]
    both = "gain_points" in summary["students"][0]
    columns += ["gain, points", "relative gain, %"] if both else []
    for column in columns:
        table.add_column(column, justify="right")
    pivot = summary["students"][0]
    for student in summary["students"]:
        cells = [
            str(student["index"]),
            f"{_relative_width(student['widths'], pivot['widths']):.2f}",
            f"{student['params']:,}",
            f"{student['macs'] / 1e6:.2f} M",
        ]
        for role in ("baseline", "distilled"):
            if role in student:
                cells.append(_percent(student[role]["test"], student[role]["test_std"]))
        if both:
            cells.append(_signed(student["gain_points"], student["gain_points_std"]))
            cells.append(
                _signed(100 * student["relative_gain"], 100 * student["relative_gain_std"])
            )
        table.add_row(*cells)
    for key, name in (("ensemble", "distilled"), ("baseline_ensemble", "baseline")):
        if key in summary:
            cells = [
                "ensemble of all",
                "",
                f"{sum(s['params'] for s in summary['students']):,}",
                "",
            ]
            cells += [
                _percent(summary[key]["test"], summary[key]["test_std"]) if column == name else ""
                for column in columns[4:]
            ]
            table.add_row(*cells)
    return table


def print_table(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints :func:`results_table`, wide enough for its columns."""
    _print(results_table(summary), console)


def print_evaluation(
    rows: Sequence[dict[str, Any]], split: str, console: Console | None = None
) -> None:
    """Prints what :func:`kdjax.train.evaluate.evaluate` returned."""
    table = Table(title=f"accuracy on {split}, %")
    table.add_column("run")
    table.add_column("step", justify="right")
    for number in rows[0]["students"]:
        table.add_column(f"student {number}", justify="right")
    if "ensemble_accuracy" in rows[0]:
        table.add_column("ensemble", justify="right")
    for row in rows:
        values = [
            *row["accuracy"],
            *([row["ensemble_accuracy"]] if "ensemble_accuracy" in row else []),
        ]
        table.add_row(row["run"], str(row["step"]), *(f"{100 * value:.2f}" for value in values))
    _print(table, console)


def _print(table: Table, console: Console | None) -> None:
    # Where the output is no terminal, rich assumes 80 columns and would break numbers.
    (console or Console(width=None if sys.stdout.isatty() else 120)).print(table)


def _relative_width(widths: dict[str, int], pivot: dict[str, int]) -> float:
    return sum(widths.values()) / sum(pivot.values())


def _percent(mean: float, deviation: float) -> str:
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def _signed(mean: float, deviation: float) -> str:
    return f"{mean:+.2f} ± {deviation:.2f}"

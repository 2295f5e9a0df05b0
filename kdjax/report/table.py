"""Results as tables on the terminal."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def results_rows(summary: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """The comparison as (title, column headings, rows of text); one row per student.

    Accuracies are in %, with means and deviations over seeds.
    """
    seeds = ", ".join(map(str, summary["seeds"]))
    made = summary["made_with"]
    title = (
        f"{made['network']} on {made['dataset']}: test accuracy of the "
        f"{summary['last_or_best']} checkpoint, %, over seeds {seeds}"
    )
    pivot = summary["students"][0]
    roles = [role for role in ("baseline", "distilled") if role in pivot]
    both = "gain_points" in pivot
    columns = ["student", "width", "parameters", "MACs", *roles]
    columns += ["gain, points", "relative gain, %"] if both else []
    rows = []
    for student in summary["students"]:
        row = [
            str(student["index"]),
            f"{_relative_width(student['widths'], pivot['widths']):.2f}",
            f"{student['params']:,}",
            f"{student['macs'] / 1e6:.2f} M",
            *(percent(student[role]["test"], student[role]["test_std"]) for role in roles),
        ]
        if both:
            relative, deviation = student["relative_gain"], student["relative_gain_std"]
            row.append(signed(student["gain_points"], student["gain_points_std"]))
            row.append(signed(100 * relative, 100 * deviation))
        rows.append(row)
    keys = {"baseline": "baseline_ensemble", "distilled": "ensemble"}
    accuracies = [percent(summary[keys[r]]["test"], summary[keys[r]]["test_std"]) for r in roles]
    rows.append(["average of all", "", "", "", *accuracies, *([""] * (2 * both))])
    return title, columns, rows


def terminal_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for a terminal; every column is set to the right."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown under its title."""
    lines = [title, "", _markdown_row(columns), _markdown_row(["---:"] * len(columns))]
    return "\n".join([*lines, *map(_markdown_row, rows)]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def print_table(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints :func:`results_rows`, wide enough for its columns."""
    print_tables([terminal_table(*results_rows(summary))], console)


def print_tables(tables: Sequence[Table], console: Console | None = None) -> None:
    """Prints tables one under another."""
    # Where the output is no terminal, rich assumes 80 columns and would break numbers.
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    for table in tables:
        console.print(table)


def _relative_width(widths: dict[str, int], pivot: dict[str, int]) -> float:
    return sum(widths.values()) / sum(pivot.values())


def percent(mean: float, deviation: float) -> str:
    """A mean of fractions and its deviation, in %."""
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def signed(mean: float, deviation: float) -> str:
    """A difference with its sign, and its deviation."""
    return f"{mean:+.2f} ± {deviation:.2f}"

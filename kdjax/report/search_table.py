"""The results of a structure search as tables."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from kdjax.report.table import markdown_table, percent, print_tables, signed, terminal_table

Rows = tuple[str, list[str], list[list[str]]]


def comparison_rows(summary: dict[str, Any]) -> Rows:
    """(title, column headings, rows): teacher, compact network and its rivals."""
    made, teacher = summary["made_with"], summary["teacher"]
    seeds = ", ".join(map(str, summary["seeds"]))
    title = (
        f"{made['network']} on {made['dataset']}: test accuracy of the {summary['last_or_best']} "
        f"checkpoint, %, over seeds {seeds} (teacher: one run)"
    )
    columns = ["network", "parameters", "share", "MACs", "share", "accuracy"]
    rows = []
    for entry in [{"name": "teacher", **teacher}, *summary["candidates"]]:
        rows.append(
            [
                entry["name"],
                f"{entry['params']:,}",
                f"{entry['params'] / teacher['params']:.1%}",
                f"{entry['macs'] / 1e6:.3f} M",
                f"{entry['macs'] / teacher['macs']:.1%}",
                percent(entry["test"], entry["test_std"])
                if len(entry["per_seed"]) > 1
                else f"{100 * entry['test']:.2f}",
            ]
        )
    return title, columns, rows


def widths_rows(summary: dict[str, Any]) -> Rows:
    """(title, column headings, rows): the width of each channel group before and after."""
    structure = summary["structure"]
    reached = ", ".join(
        f"{name} {share:.2%} for a target of {structure['targets'][name]:.2%}"
        for name, share in structure["shares"].items()
    )
    rows = []
    for group, before in summary["teacher"]["widths"].items():
        after, uniform = structure["widths"][group], structure["widths_uniform"][group]
        rows.append([group, str(before), str(after), f"{after / before:.0%}", str(uniform)])
    columns = ["group", "before", "after", "share", "uniform"]
    return f"Channels of each group: {reached}", columns, rows


def verdict(summary: dict[str, Any]) -> str:
    """What the comparison says, in words."""
    lines = []
    for key, text in (
        ("compact_minus_uniform_points", "compact minus uniform, both distilled"),
        ("distilled_minus_alone_points", "compact, distilled minus alone"),
    ):
        difference = summary[key]
        value = signed(difference["mean"], difference["std"])
        if len(summary["seeds"]) == 1:
            value = value.split()[0]
        lines.append(f"{text}: {value} points of accuracy")
    starts = {
        "fresh": "All candidates started from fresh weights.",
        "slim": "The compact candidates started from what survived the search, the uniform one "
        "from the teacher's strongest channels; the search's epochs come on top for the former.",
    }
    note = summary["structure"]["note"]
    return "\n".join([*lines, starts[summary["start"]], *([note] if note else [])])


def print_search(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints widths, comparison and verdict."""
    tables = [terminal_table(*widths_rows(summary)), terminal_table(*comparison_rows(summary))]
    print_tables(tables, console)
    print(verdict(summary))


def search_markdown(summary: dict[str, Any]) -> str:
    """The same as Markdown."""
    parts: Sequence[str] = (
        markdown_table(*comparison_rows(summary)),
        "\n".join(f"- {line}" for line in verdict(summary).splitlines()) + "\n",
        markdown_table(*widths_rows(summary)),
    )
    return "\n".join(parts)

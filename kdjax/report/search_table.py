"""The results of a structure search as tables and in words."""

from typing import Any

from rich.console import Console

from kdjax.report.terminal import Grid, markdown, print_grids, print_text
from kdjax.report.words import heading, percent, sentence

# Structure of an entry -> key of its cost in the results.
_COSTS = {"full": "before", "compact": "after", "uniform": "uniform"}
# Differences in a search's results -> sentences for: better, worse, and perhaps chance.
_DIFFERENCES = {
    "compact_minus_uniform_points": (
        "The compact network is {} points better than the uniform one, both distilled",
        "The compact network is {} points worse than the uniform one, both distilled",
        "Compact minus uniform, both distilled, is {} points",
    ),
    "distilled_minus_alone_points": (
        "Distillation gains the compact network {} points over training it alone",
        "Distillation loses the compact network {} points against training it alone",
        "Compact distilled minus compact alone is {} points",
    ),
    "compact_minus_teacher_points": (
        "The compact network, distilled, is {} points better than its teacher, one run",
        "The compact network, distilled, is {} points worse than its teacher, one run",
        "Compact, distilled, minus its teacher, one run, is {} points",
    ),
}


def comparison_grid(summary: dict[str, Any]) -> Grid:
    """A table of teacher, compact network and its rivals, with cost and test accuracy."""
    teacher = summary["teacher"]
    title = heading(summary) + " (teacher: one run)"
    columns = ["network", "parameters", "share of\nparameters", "MACs", "share of\nMACs"]
    timed = summary["structure"].get("cost", {})
    times = "latency_ms" in timed.get("before", {})
    columns += [*["estimated\ntime"] * times, "accuracy"]
    rows = [
        [
            entry["name"],
            f"{entry['params']:,}",
            f"{entry['params'] / teacher['params']:.1%}",
            f"{entry['macs'] / 1e6:.3f} M",
            f"{entry['macs'] / teacher['macs']:.1%}",
            *[f"{timed[_COSTS[entry['structure']]]['latency_ms']:.3f} ms" for _ in range(times)],
            percent(entry["test"], entry["test_half_width"]),
        ]
        for entry in [{"name": "teacher", "structure": "full", **teacher}, *summary["candidates"]]
    ]
    return Grid(title, columns, rows, [3, 1, 2, 4])


def widths_grid(summary: dict[str, Any]) -> Grid:
    """A table of the width of each channel group before and after the search."""
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
    return Grid(f"Channels of each group: {reached}", columns, rows, [4, 3, 1])


def verdict(summary: dict[str, Any]) -> str:
    """What the comparison says, in words."""
    lines = [
        sentence(*texts, found["mean"], found["half_width"], len(summary["seeds"])) + "."
        for key, texts in _DIFFERENCES.items()
        if (found := summary.get(key))
    ]
    starts = {
        "fresh": "All candidates started from fresh weights.",
        "slim": "The compact candidates started from what survived the search, the uniform one "
        "from the teacher's strongest channels; the search's epochs come on top for the former.",
    }
    one = "All this is of one search: another one may find another structure."
    note = summary["structure"]["note"]
    return "\n".join([*lines, one, starts[summary["start"]], *([note] if note else [])])


def print_search(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints widths, comparison and verdict."""
    grids = [widths_grid(summary), comparison_grid(summary)]
    print_grids(grids, console, whole="report/table.md and results.json")
    print_text(verdict(summary), console)


def search_markdown(summary: dict[str, Any]) -> str:
    """Returns comparison, verdict and widths as Markdown."""
    parts = (
        markdown(comparison_grid(summary)),
        "\n".join(f"- {line}" for line in verdict(summary).splitlines()) + "\n",
        markdown(widths_grid(summary)),
    )
    return "\n".join(parts)

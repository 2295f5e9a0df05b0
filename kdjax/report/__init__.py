"""What a person takes away from results: tables and figures."""

from pathlib import Path
from typing import Any

from kdjax.report.bench_table import print_bench
from kdjax.report.confusion import draw_confusion
from kdjax.report.evaluation import print_evaluation, print_predictions
from kdjax.report.figures import draw
from kdjax.report.search_figures import draw_search
from kdjax.report.search_table import (
    comparison_rows,
    print_search,
    search_markdown,
    widths_rows,
)
from kdjax.report.table import markdown_table, print_table, results_rows

__all__ = [
    "comparison_rows",
    "draw_confusion",
    "print_bench",
    "print_evaluation",
    "print_predictions",
    "print_search",
    "print_table",
    "widths_rows",
    "write",
    "write_search",
]


def write(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Writes ``workdir/report``: the table as Markdown and the figures; returns the paths."""
    figures = draw(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(markdown_table(*results_rows(summary)))
    return [table, *figures]


def write_search(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """The same for the results of a search."""
    figures = draw_search(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(search_markdown(summary))
    return [table, *figures]

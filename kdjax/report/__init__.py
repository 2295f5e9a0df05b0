"""Results as tables and figures."""

from pathlib import Path
from typing import Any

from kdjax.report.bench_table import print_bench, print_layers
from kdjax.report.confusion import draw_confusion
from kdjax.report.evaluation import print_evaluation, print_predictions
from kdjax.report.figures import draw
from kdjax.report.plan_table import print_plan
from kdjax.report.search_figures import draw_search
from kdjax.report.search_table import print_search, search_markdown
from kdjax.report.table import print_table, table_markdown

__all__ = [
    "draw_confusion",
    "print_bench",
    "print_evaluation",
    "print_layers",
    "print_plan",
    "print_predictions",
    "print_search",
    "print_table",
    "write",
    "write_search",
]


def write(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Writes ``workdir/report``: the table as Markdown and the figures; returns the paths."""
    figures = draw(summary, workdir)
    table = workdir / "report" / "table.md"
    raised = "".join(f"\n- {line}\n" for line in summary.get("raised", ()))
    table.write_text(table_markdown(summary) + raised)
    return [table, *figures]


def write_search(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """The same for the results of a search."""
    figures = draw_search(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(search_markdown(summary))
    return [table, *figures]

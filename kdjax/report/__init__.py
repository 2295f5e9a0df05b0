"""Results as tables and figures."""

from pathlib import Path
from typing import Any

from kdjax.report.bench_table import print_bench, print_layers
from kdjax.report.confusion import draw_confusion
from kdjax.report.distill_figures import draw_distill
from kdjax.report.distill_table import distill_markdown, print_distill
from kdjax.report.evaluation import print_evaluation, print_predictions
from kdjax.report.figures import draw
from kdjax.report.plan_table import print_plan
from kdjax.report.search_figures import draw_search
from kdjax.report.search_table import print_search, search_markdown
from kdjax.report.table import print_table, table_markdown

__all__ = [
    "draw_confusion",
    "print_bench",
    "print_distill",
    "print_evaluation",
    "print_layers",
    "print_plan",
    "print_predictions",
    "print_search",
    "print_table",
    "write",
    "write_distill",
    "write_search",
]


def write(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Writes ``workdir/report``: the table as Markdown and the figures; returns the paths."""
    figures = draw(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(table_markdown(summary) + _raised(summary))
    return [table, *figures]


def write_distill(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Like :func:`write`, for the results of a distillation."""
    figures = draw_distill(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(distill_markdown(summary) + _raised(summary))
    return [table, *figures]


def _raised(summary: dict[str, Any]) -> str:
    """Lines about runs whose number of epochs was raised after they had started."""
    return "".join(f"\n- {line}\n" for line in summary.get("raised", ()))


def write_search(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Like :func:`write`, for the results of a search."""
    figures = draw_search(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(search_markdown(summary))
    return [table, *figures]

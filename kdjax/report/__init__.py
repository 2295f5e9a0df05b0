"""Results as tables and figures."""

from pathlib import Path
from typing import Any

from rich.console import Console

from kdjax import atomic
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
from kdjax.report.terminal import print_text

__all__ = [
    "draw_confusion",
    "print_bench",
    "print_distill",
    "print_evaluation",
    "print_layers",
    "print_plan",
    "print_predictions",
    "print_remarks",
    "print_search",
    "print_table",
    "write",
    "write_distill",
    "write_search",
]


def write(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Writes ``workdir/report``: the table as Markdown and the figures; returns the paths."""
    return _write(workdir, table_markdown(summary) + _remarks(summary), draw(summary, workdir))


def write_distill(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Like :func:`write`, for the results of a distillation."""
    text = distill_markdown(summary) + _remarks(summary)
    return _write(workdir, text, draw_distill(summary, workdir))


def write_search(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Like :func:`write`, for the results of a search."""
    text = search_markdown(summary) + _remarks(summary)
    return _write(workdir, text, draw_search(summary, workdir))


def _write(workdir: Path, text: str, figures: list[Path]) -> list[Path]:
    table = workdir / "report" / "table.md"
    atomic.write(table, text)
    return [table, *figures]


def print_remarks(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints what a reader of the results has to know of single runs."""
    for line in summary.get("remarks", ()):
        print_text(line, console)


def _remarks(summary: dict[str, Any]) -> str:
    return "".join(f"\n- {line}\n" for line in summary.get("remarks", ()))

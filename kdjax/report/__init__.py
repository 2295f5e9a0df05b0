"""What a person takes away from results: tables and figures."""

from pathlib import Path
from typing import Any

from kdjax.report.figures import draw
from kdjax.report.table import print_evaluation, print_table, results_markdown

__all__ = ["print_evaluation", "print_table", "write"]


def write(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Writes ``workdir/report``: the figures and the table as Markdown; returns the paths."""
    figures = draw(summary, workdir)
    table = workdir / "report" / "table.md"
    table.write_text(results_markdown(summary))
    return [table, *figures]

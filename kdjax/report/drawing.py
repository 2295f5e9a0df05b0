"""Functions that all figures use."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdjax.report import words

COLOURS = {"baseline": "#888888", "distilled": "#1f6fb4"}


def new_figure(
    columns: int,
    *,
    rows: int = 1,
    size: tuple[float, float] = (6, 4),
    share_y: bool = True,
    ratios: Sequence[float] | None = None,
) -> tuple[Any, list[Any]]:
    """Makes a figure of panels; returns it and the axes of the panels, row by row.

    Args:
      columns: panels side by side.
      rows: how many rows of panels.
      size: (width, height) of a panel, in inches.
      share_y: whether all panels have the same vertical axis.
      ratios: relative widths of the panels; default: all equal.
    """
    # The object interface needs no display and leaves the user's pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=share_y, squeeze=False, width_ratios=ratios)
    axes = list(grid.ravel())
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def legend_below(figure: Any, axis: Any, columns: int) -> None:
    """Draws one legend for the figure, under its panels, where it covers no data.

    Args:
      figure: a Matplotlib figure.
      axis: the panel whose labels the legend shows.
      columns: the number of columns of the legend.
    """
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def named(summary: dict[str, Any]) -> str:
    """Network and data of a result, for a title."""
    return escaped(words.named(summary))


def escaped(text: str) -> str:
    """Escapes what the text of a figure cannot have.

    ``$`` would start a formula. Bytes of a file's name that are not UTF-8 cannot be drawn.
    """
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def seeds_text(seeds: Sequence[int], shown: str) -> str:
    """The number of seeds and, if there are several, what in the figure shows their intervals."""
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds ({shown}: 95 % intervals)"


def error_bar(mean: float, half_width: float | None) -> list[list[float]]:
    """The lengths of an error bar around a mean, in %, cut off at accuracies of 0 and 100.

    ``mean`` and ``half_width`` are fractions. With one seed there is no interval: ``half_width`` is
    None, and the bar has the length 0.
    """
    reach = half_width or 0.0
    return [[100 * min(reach, mean)], [100 * min(reach, 1 - mean)]]


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a figure; returns the path."""
    figure.savefig(path, dpi=120)
    return path

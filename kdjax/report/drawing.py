"""What all figures share."""

from pathlib import Path
from typing import Any


def new_figure(columns: int, *, share_y: bool = True) -> tuple[Any, list[Any]]:
    """A figure with so many panels side by side, and their axes."""
    # The object interface needs no display and leaves the user's pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, sharey=share_y, squeeze=False)[0])
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a figure; returns the path."""
    figure.savefig(path, dpi=120)
    return path

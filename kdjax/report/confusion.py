"""Confusion matrices as figures."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.drawing import escaped, save_figure

_MOST_NUMBERS = 20  # With more classes, the cells have no numbers.
_MOST_NAMES = 100  # With more classes, the axes have no class names.
_LONGEST = 18  # Characters; longer names are cut.


def draw_confusion(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Draws the confusion matrix of each evaluated network into ``workdir/report/confusion``.

    Returns:
      The paths of the figures. Their names contain split and network, and for other data than that
      of training, or the best checkpoint, also these.

    Raises:
      OSError: if the figures cannot be written.
    """
    folder = workdir / "report" / "confusion"
    folder.mkdir(parents=True, exist_ok=True)
    names = [escaped(entry["name"]) for entry in summary["classes"]]
    paths = []
    for network in summary["networks"]:
        parts = [summary["split"], network["name"]]
        title = f"{summary['data']['name']}, {summary['split']}"
        if summary["data"]["other"]:
            parts.insert(0, re.split(r"[/\\:]", summary["data"]["name"].rstrip("/\\"))[-1])
        if summary["checkpoint"] != "last":
            parts.append(summary["checkpoint"])
            title += f", {summary['checkpoint']} checkpoint"
        file = re.sub(r"\W+", "-", " ".join(parts)).strip("-").lower()
        figure = _figure(network, names, escaped(title))
        paths.append(save_figure(figure, folder / f"{file}.png"))
    return paths


def _figure(network: dict[str, Any], names: Sequence[str], data: str) -> Any:
    # The object interface needs no display and leaves the user's pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts, classes = np.array(network["confusion"]), len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + min(max(0.32 * classes, 2.5), 13.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    if classes <= _MOST_NAMES:
        size = 9 if classes <= 30 else 5.5
        shown = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
        longest = max(len(name) for name in shown)
        axis.set_xticks(range(classes), shown, rotation=90 if longest > 2 else 0, fontsize=size)
        axis.set_yticks(range(classes), shown, fontsize=size)
    if classes <= _MOST_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            axis.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[row, column] > 0.5 else "black",
            )
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    seeds = len(network["runs"])
    axis.set_title(f"{network['name']}\n{data}" + (f", {seeds} seeds" if seeds > 1 else ""))
    figure.colorbar(image, label="share of the true class, %", shrink=0.8)
    return figure

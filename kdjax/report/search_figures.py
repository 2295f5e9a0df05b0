"""The results of a structure search as figures: widths, accuracy and cost, and the search."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report.drawing import (
    error_bar,
    legend_below,
    named,
    new_figure,
    save_figure,
    seeds_text,
)

_COLOURS = {"before": "#cccccc", "uniform": "#888888", "compact": "#1f6fb4"}
_A_ROW = 40  # How many channel groups fit into a row.
_LINES = 8  # How many blocks can be told apart as lines.


def draw_search(summary: dict[str, Any], workdir: Path) -> list[Path]:
    """Draws the figures of a search into ``workdir/report``; returns their paths."""
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    paths = [
        _draw_widths(summary, folder / "widths.png"),
        _draw_accuracy(summary, folder / "accuracy.png"),
    ]
    records = _search_records(workdir / "metrics.jsonl")
    if records:
        paths.append(_draw_descent(summary, records, folder / "search.png"))
    return paths


def _draw_widths(summary: dict[str, Any], path: Path) -> Path:
    structure, before = summary["structure"], summary["teacher"]["widths"]
    groups = list(before)
    rows = -(-len(groups) // _A_ROW)
    in_a_row = -(-len(groups) // rows)
    size = (max(7.0, 0.28 * in_a_row + 1.5), 3.8)
    figure, axes = new_figure(1, rows=rows, size=size, share_y=False)
    for number, axis in enumerate(axes):
        shown = groups[number * in_a_row : (number + 1) * in_a_row]
        _draw_bars(axis, shown, before, structure)
        axis.set_xlim(-0.7, in_a_row - 0.3)  # Makes the bars of all rows equally wide.
        axis.set_ylabel("channels")
    axes[0].set_title(f"{named(summary)}: widths before and after the search")
    legend_below(figure, axes[0], 3)
    return save_figure(figure, path)


def _draw_bars(
    axis: Any, groups: list[str], before: dict[str, int], structure: dict[str, Any]
) -> None:
    places = range(len(groups))
    after, uniform = structure["widths"], structure["widths_uniform"]
    axis.bar(places, [before[g] for g in groups], 0.9, color=_COLOURS["before"], label="before")
    axis.bar(places, [after[g] for g in groups], 0.6, color=_COLOURS["compact"], label="compact")
    axis.scatter(
        places,
        [uniform[g] for g in groups],
        marker="_",
        color="black",
        zorder=3,
        label="uniform at equal budget",
    )
    axis.set_xticks(list(places), groups, rotation=90, fontsize=8)
    axis.grid(visible=False, axis="x")
    axis.locator_params(axis="y", integer=True, nbins=6)


def _draw_accuracy(summary: dict[str, Any], path: Path) -> Path:
    """Draws one row per network, with its cost as text, because several may have the same cost."""
    teacher = summary["teacher"]
    entries = [{"name": "teacher, one run", "structure": "full", **teacher}]
    entries += summary["candidates"]
    figure, (axis,) = new_figure(1, size=(8, 1.6 + 0.75 * len(entries)))
    for place, entry in enumerate(entries):
        colour = _COLOURS.get(entry["structure"], "black")
        filled = colour if entry.get("distilled", True) else "white"
        axis.errorbar(
            [100 * entry["test"]],
            [place],
            xerr=error_bar(entry["test"], entry["test_half_width"]),
            marker="o",
            ms=8,
            mfc=filled,
            color=colour,
            capsize=4,
        )
        if len(entry["per_seed"]) > 1:
            seeds = [100 * value for value in entry["per_seed"]]
            axis.plot(seeds, [place + 0.22] * len(seeds), "|", color=colour, ms=9)
    axis.set_yticks(range(len(entries)), [_costly_name(entry, teacher) for entry in entries])
    axis.set_ylim(len(entries) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=8)
    axis.set_xlabel("test accuracy, %")
    shown = seeds_text(summary["seeds"], "strokes: each of them; bars")
    figure.suptitle(f"{named(summary)}\n{shown}", fontsize=11)
    return save_figure(figure, path)


def _costly_name(entry: dict[str, Any], full: dict[str, Any]) -> str:
    return (
        f"{entry['name']}\n{entry['flops'] / full['flops']:.1%} of FLOPs, "
        f"{entry['params'] / full['params']:.1%} of parameters"
    )


def _search_records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["run"].startswith("search-") and record["kind"] == "train":
            records.append(record)
    return records


def _draw_descent(summary: dict[str, Any], records: list[dict[str, Any]], path: Path) -> Path:
    before = summary["teacher"]["widths"]
    blocks = [b for b in summary["blocks"] if sum(before[g] for g in b["groups"])]
    height = 4.5 if len(blocks) <= _LINES else max(4.5, 1.5 + 0.16 * len(blocks))
    figure, (costs, alive) = new_figure(2, size=(6.5, height), share_y=False)
    # A record has no numbers if all of its steps were skipped.
    records = [record for record in records if "accuracy" in record]
    epochs = [record["epoch"] for record in records]
    marker = "o" if len(records) == 1 else None  # A line through a single point is not visible.
    for name, target in summary["structure"]["targets"].items():
        shares = [record[f"cost/{name}"] for record in records]
        (line,) = costs.plot(epochs, shares, marker=marker, label=f"cost in {name}")
        costs.axhline(target, color=line.get_color(), ls=":")
    accuracy = [record["accuracy"][0] for record in records]
    costs.plot(epochs, accuracy, color="#999999", marker=marker, label="training accuracy")
    costs.set_title("share of the full cost (dotted: targets)", fontsize=11)
    costs.set_ylim(0, 1.05)
    _legend_under(costs)
    shares_alive = np.array([_alive(block["groups"], records, before) for block in blocks])
    names = [block["name"] for block in blocks]
    if len(blocks) <= _LINES:
        for name, share in zip(names, shares_alive, strict=True):
            alive.plot(epochs, share, marker=marker, label=name)
        alive.set_ylim(0, 1.05)
        _legend_under(alive)
    else:  # Too many lines to tell apart.
        rows = range(len(blocks))
        shades = alive.pcolormesh(epochs, rows, shares_alive, vmin=0, vmax=1, shading="nearest")
        figure.colorbar(shades, ax=alive)
        alive.grid(visible=False)
        alive.set_yticks(rows, names, fontsize=7)
        alive.invert_yaxis()
    alive.set_title("channels alive in each block, share", fontsize=11)
    for axis in (costs, alive):
        axis.set_xlabel("epoch of the search")
        axis.locator_params(axis="x", integer=True)
    figure.suptitle(f"The search: {named(summary)}")
    return save_figure(figure, path)


def _alive(groups: list[str], records: list[dict[str, Any]], before: dict[str, int]) -> list[float]:
    """Share of a block's channels that are alive, in each record."""
    full = sum(before[group] for group in groups)
    return [sum(record[f"alive/{group}"] for group in groups) / full for record in records]


def _legend_under(axis: Any) -> None:
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
    axis.legend(ncols=4, fontsize=9, frameon=False, **place)

"""The results of a structure search as figures: widths, accuracy against cost, the descent."""

import json
from pathlib import Path
from typing import Any

from kdjax.report.drawing import new_figure, save_figure

_COLOURS = {"before": "#cccccc", "uniform": "#888888", "compact": "#1f6fb4", "alone": "#7fb2dc"}


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
    figure, (axis,) = new_figure(1)
    structure, before = summary["structure"], summary["teacher"]["widths"]
    groups = list(before)
    figure.set_size_inches(max(6.0, 0.3 * len(groups) + 2), 4.5)
    places = range(len(groups))
    axis.bar(places, [before[g] for g in groups], 0.9, color=_COLOURS["before"], label="before")
    axis.bar(
        places,
        [structure["widths"][g] for g in groups],
        0.6,
        color=_COLOURS["compact"],
        label="compact",
    )
    axis.scatter(
        places,
        [structure["widths_uniform"][g] for g in groups],
        marker="_",
        color="black",
        zorder=3,
        label="uniform at equal budget",
    )
    axis.set_xticks(list(places), groups, rotation=90, fontsize=7)
    axis.set_ylabel("channels")
    axis.set_title(f"{summary['made_with']['network']}: widths before and after")
    axis.legend()
    return save_figure(figure, path)


def _draw_accuracy(summary: dict[str, Any], path: Path) -> Path:
    figure, axes = new_figure(2)
    teacher = summary["teacher"]
    styles = {
        ("compact", True): ("o", _COLOURS["compact"]),
        ("compact", False): ("v", _COLOURS["alone"]),
        ("uniform", True): ("s", _COLOURS["uniform"]),
    }
    for axis, cost in zip(axes, ("macs", "params"), strict=True):
        axis.scatter(
            [teacher[cost]],
            [100 * teacher["test"]],
            marker="*",
            s=120,
            color="black",
            label="teacher",
        )
        for entry in summary["candidates"]:
            marker, colour = styles[entry["structure"], entry["distilled"]]
            axis.errorbar(
                [entry[cost]],
                [100 * entry["test"]],
                [100 * entry["test_std"]],
                marker=marker,
                color=colour,
                capsize=3,
                ls="",
                label=entry["name"],
            )
        axis.set_xlim(left=0)
        axis.set_xlabel("multiply-accumulates" if cost == "macs" else "parameters")
    axes[0].set_ylabel("test accuracy, %")
    axes[0].set_title(f"{len(summary['seeds'])} seeds (bars: 1 deviation)")
    axes[0].legend()
    return save_figure(figure, path)


def _search_records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["run"].startswith("search-") and record["kind"] == "train":
            records.append(record)
    return records


def _draw_descent(summary: dict[str, Any], records: list[dict[str, Any]], path: Path) -> Path:
    figure, axes = new_figure(2, share_y=False)
    epochs = [record["epoch"] for record in records]
    for name, target in summary["structure"]["targets"].items():
        (line,) = axes[0].plot(epochs, [record[f"cost/{name}"] for record in records], label=name)
        axes[0].axhline(target, color=line.get_color(), ls=":")
    accuracy = [record["accuracy"][0] for record in records]
    axes[0].plot(epochs, accuracy, color="#999999", label="training accuracy")
    axes[0].set_title("share of the full cost (dotted: target)")
    before = summary["teacher"]["widths"]
    for block in summary["blocks"]:
        alive = [sum(record[f"alive/{g}"] for g in block["groups"]) for record in records]
        if full := sum(before[group] for group in block["groups"]):
            axes[1].plot(epochs, [value / full for value in alive], label=block["name"])
    axes[1].set_title("channels alive in each block, share")
    for axis in axes:
        axis.set_xlabel("epoch of the search")
        axis.set_ylim(0, 1.05)
        axis.legend()
    return save_figure(figure, path)

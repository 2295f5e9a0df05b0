"""What `kdjax evaluate` and `kdjax predict` found, as tables on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from kdjax.report.terminal import Grid, new_console, print_grids, print_text
from kdjax.report.words import percent

# With more classes, a table of them would be longer than a screen.
_MOST_CLASSES = 20


def print_evaluation(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints tables of what :mod:`kdjax.train.tasks.evaluate` returned, and its remarks."""
    console = console or new_console()
    print_text(_title(summary), console)
    grids = [_overview(summary)]
    if len(summary["classes"]) <= _MOST_CLASSES:
        grids.append(_classes(summary))
    print_grids(grids, console, whole="the file of --out")
    for remark in summary["remarks"]:
        print_text(remark, console)


def _title(summary: dict[str, Any]) -> str:
    runs = [run for network in summary["networks"] for run in network["runs"]]
    seeds = sorted({run["seed"] for run in runs})
    steps = sorted({run["step"] for run in runs})
    return (
        f"{summary['data']['name']}, {summary['split']}: {summary['examples']:,} images. "
        f"Accuracy of the {summary['checkpoint']} checkpoint, %; {_listed('seed', seeds)}; "
        f"{_listed('step', steps)}"
    )


def _overview(summary: dict[str, Any]) -> Grid:
    """A table with a row per network: accuracy over seeds, and the class with the lowest one."""
    columns = {"accuracy": "accuracy", "top5": "among the top 5"}
    known = [name for name in columns if summary["networks"][0][name] is not None]
    names = [entry["name"] for entry in summary["classes"]]
    rows = []
    for network in summary["networks"]:
        shares = [
            (share, index)
            for index, share in enumerate(network["class_accuracy"])
            if share is not None
        ]
        lowest, index = min(shares)
        values = [percent(network[name], network[f"{name}_half_width"]) for name in known]
        rows.append([network["name"], *values, f"{names[index]}: {percent(lowest)}"])
    heads = ["network", *(columns[name] for name in known), "lowest class"]
    title = "accuracy, %, with 95 % intervals over seeds where there are several"
    return Grid(title, heads, rows, [len(heads) - 1])


def _classes(summary: dict[str, Any]) -> Grid:
    """A table with a row per class: its examples, and the accuracy of each network on them."""
    networks = summary["networks"]
    rows = []
    for index, entry in enumerate(summary["classes"]):
        values = [network["class_accuracy"][index] for network in networks]
        shown = ["" if value is None else percent(value) for value in values]
        rows.append([entry["name"], f"{entry['examples']:,}", *shown])
    heads = ["class", "images", *(network["name"].replace(", ", ",\n") for network in networks)]
    # The number of images is left out first, then the networks, beginning with the last.
    least_first = [1, *range(len(heads) - 1, 2, -1)]
    return Grid("accuracy of each class, %", heads, rows, least_first)


def _listed(name: str, numbers: Sequence[int]) -> str:
    return f"{name}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def print_predictions(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints a table of what :meth:`kdjax.deploy.Predictions.to_json` returned."""
    rows = []
    for entry in found["predictions"]:
        first, *rest = entry["classes"]
        others = ", ".join(f"{e['class']} {percent(e['probability'])}" for e in rest)
        rows.append([entry["image"], first["class"], percent(first["probability"]), others])
    columns = ["image", "class", "probability, %", "next"]
    grid = Grid("predictions", columns, rows, [3])
    print_grids([grid], console, whole="the file of --out")

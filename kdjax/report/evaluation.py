"""What `kdjax evaluate` found, as tables on the terminal."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# With more classes a table of them is longer than a screen.
_MOST_CLASSES = 20
_NETWORKS_ABREAST = 6


def print_evaluation(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints tables of what :func:`kdjax.train.evaluate.evaluate` returned, and its remarks."""
    # Where the output is no terminal, rich assumes 80 columns and would break numbers.
    console = console or Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_title(summary), markup=False, soft_wrap=True)
    console.print(_overview(summary))
    networks = summary["networks"]
    if len(summary["classes"]) <= _MOST_CLASSES:
        for start in range(0, len(networks), _NETWORKS_ABREAST):
            console.print(_classes(summary, networks[start : start + _NETWORKS_ABREAST]))
    for remark in summary["remarks"]:
        console.print(remark, markup=False, soft_wrap=True)


def _title(summary: dict[str, Any]) -> str:
    runs = [run for network in summary["networks"] for run in network["runs"]]
    seeds = sorted({run["seed"] for run in runs})
    steps = sorted({run["step"] for run in runs})
    return (
        f"{summary['data']['name']}, {summary['split']}: {summary['examples']:,} images. "
        f"Accuracy of the {summary['checkpoint']} checkpoint, %; {_listed('seed', seeds)}; "
        f"{_listed('step', steps)}"
    )


def _overview(summary: dict[str, Any]) -> Table:
    """One row per network: accuracy over seeds, and its lowest class."""
    table = Table()
    columns = {"accuracy": "accuracy", "top5": "among the top 5"}
    known = [name for name in columns if summary["networks"][0][name] is not None]
    table.add_column("network")
    for name in known:
        table.add_column(columns[name], justify="right")
    table.add_column("lowest class", justify="right")
    names = [entry["name"] for entry in summary["classes"]]
    for network in summary["networks"]:
        values = [_over_seeds(network[name], network[f"{name}_std"]) for name in known]
        shares = [
            (share, index)
            for index, share in enumerate(network["class_accuracy"])
            if share is not None
        ]
        lowest, index = min(shares)
        table.add_row(network["name"], *values, f"{escape(names[index])}: {100 * lowest:.2f}")
    return table


def _classes(summary: dict[str, Any], networks: Sequence[dict[str, Any]]) -> Table:
    """One row per class: its examples, and the accuracy of each network on them."""
    table = Table(title="accuracy of each class, %")
    table.add_column("class")
    table.add_column("images", justify="right")
    for network in networks:
        table.add_column(network["name"], justify="right")
    for index, entry in enumerate(summary["classes"]):
        values = [network["class_accuracy"][index] for network in networks]
        shown = ["" if value is None else f"{100 * value:.2f}" for value in values]
        table.add_row(escape(entry["name"]), f"{entry['examples']:,}", *shown)
    return table


def _listed(name: str, numbers: Sequence[int]) -> str:
    return f"{name}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _over_seeds(mean: float, deviation: float | None) -> str:
    """A mean of fractions in %, with its deviation if there is one."""
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def print_predictions(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints a table of what :meth:`kdjax.deploy.Predictions.to_json` returned."""
    console = console or Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("probability, %", justify="right")
    table.add_column("next", overflow="fold")
    for entry in found["predictions"]:
        first, *rest = entry["classes"]
        others = ", ".join(f"{e['class']} {100 * e['probability']:.2f}" for e in rest)
        table.add_row(
            escape(entry["image"]),
            escape(first["class"]),
            f"{100 * first['probability']:.2f}",
            escape(others),
        )
    console.print(table)

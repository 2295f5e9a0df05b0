"""Measures what a search keeps, and what that is worth, for all kinds of budgets and networks.

Each network has one teacher, trained by its first search. Then every setting is searched: all
blocks at once, one block after another, with frozen blocks, with two targets, in multiples of 4,
and with a latency target. The found network is distilled from fresh weights beside the uniform
network of equal cost. The same command continues where it stopped.

Command:  python experiments/search_budgets/run.py --workdir=DIR --out=experiments/search_budgets
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measure import sliced_against_searched

import kdjax
from kdjax import config as configuration
from kdjax import models
from kdjax.bench import LayerSettings, bench_layers, time_network
from kdjax.train import search

# Network -> factor of its widths. Large networks are narrowed, so that the whole table takes hours
# on two cores, not days.
NETWORKS = {
    "resnet20": 1.0,
    "mobilenet_v2": 0.25,
    "vgg16_bn": 0.125,
    "efficientnet_b0": 0.25,
    "densenet_bc_100_12": 0.5,
}
HALF = {"search.target.flops": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "joint": HALF,
    "sequential": {**HALF, "search.schedule": "sequential"},
    "frozen": HALF,  # `make_config` also freezes the network's first block.
    "two targets": {**HALF, "search.target.params": 0.3},
    "multiple of 4": {**HALF, "search.multiple": 4},
    "latency": {"search.target.flops": 0.0, "search.target.latency": 0.7},
}
IMAGES = 64  # In the batch whose latency is measured.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--out", default=".", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="separated by commas")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="separated by commas")
    parser.add_argument("--epochs", type=int, default=15, help="of each stage")
    parser.add_argument("--labels", type=int, default=40, help="of each class")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name in options.networks.split(","):
        for setting in options.settings.split(","):
            path = options.workdir / name / setting.replace(" ", "_")
            if not (path / "row.json").exists():
                write(path / "row.json", row(name, setting, path, options))
            rows = [read(found) for found in sorted(options.workdir.glob("*/*/row.json"))]
            made = {
                "command": f"--epochs={options.epochs} --labels={options.labels} "
                f"--seeds={options.seeds}",
                "kdjax": kdjax.__version__,
                "jax": jax.__version__,
                "python": platform.python_version(),
            }
            write(options.out / "results.json", {"rows": rows, "made_with": made})


def row(name: str, setting: str, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Searches one network with one setting; returns its row of the table."""
    config = make_config(name, setting, options)
    first = path.parent / "joint"
    if setting != "joint":
        config.teacher.workdir = str(first)
    settings = LayerSettings(name, NETWORKS[name], 10, (8, 8), 1, IMAGES)
    if setting == "latency":
        table = path.parent / "latency.json"
        if not table.exists():
            bench_layers(settings, table)
        config.search.latency_table = str(table)
    summary = search(config, path)
    structure = summary["structure"]
    by_name = {entry["name"]: entry for entry in summary["candidates"]}
    found = {}
    if setting == "latency":
        found["latency_ms"] = {
            where: {
                "estimated": structure["cost"][where]["latency_ms"],
                "measured": time_network(settings, structure[widths]) / 1e3,
            }
            for where, widths in (
                ("before", "widths_before"),
                ("after", "widths"),
                ("uniform", "widths_uniform"),
            )
        }
    return {
        "network": name,
        "network_width": NETWORKS[name],
        "setting": setting,
        "targets": structure["targets"],
        "shares": structure["shares"],
        "channels": structure["channels"],
        "narrowest": min(
            structure["widths"][group] / width
            for group, width in structure["widths_before"].items()
        ),
        "sliced_against_searched": sliced_against_searched(config, path, summary),
        "teacher": summary["teacher"]["test"],
        "compact": by_name["compact, distilled"]["test"],
        "alone": by_name["compact, alone"]["test"],
        "uniform": by_name["uniform, distilled"]["test"],
        "compact_minus_uniform_points": summary["compact_minus_uniform_points"],
        "distilled_minus_alone_points": summary["distilled_minus_alone_points"],
        **found,
    }


def make_config(name: str, setting: str, options: argparse.Namespace) -> Any:
    """Returns the search's defaults on the embedded digits, with the changes of this row."""
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {
            "network": name,
            "network_width": NETWORKS[name],
            "data.name": "digits",
            "data.labels_per_class": options.labels,
            "batch_size": 32,
            "seeds": tuple(range(options.seeds)),
            "teacher.epochs": options.epochs,
            "search.epochs": options.epochs,
            "distil.epochs": options.epochs,
            "evaluation.every_epochs": options.epochs,
            "log.tensorboard": False,
            "compute.devices": 1,
            **SETTINGS[setting],
        }
    )
    if setting == "frozen":
        config.search.blocks.frozen = (models.create(name, 10).blocks[0],)
        if name == "densenet_bc_100_12":  # Its first block costs more than half of the FLOPs.
            config.search.target.flops = 0.85
    return config


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()

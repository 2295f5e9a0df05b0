"""Compares `kdjax search` with Torch-Pruning: same network, images, budget and epochs, by seed.

Every seed has its own full network, search and fine-tuning on both sides. Nothing is chosen on the
test split. The same command continues where it stopped.

Command:  python experiments/search_peer/compare.py --workdir=DIR --torch_python=PATH \\
              --out=experiments/search_peer
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

import kdjax
from kdjax import config as configuration
from kdjax import models
from kdjax.statistics import half_width, mean
from kdjax.train import search
from kdjax.train.tasks.experiment import read_dataset

RIVAL = Path(__file__).with_name("rival.py")
# As in the study digits_searched of experiments/proof, at its smallest budget.
SETTINGS = {
    "network_width": 0.625,
    "data.test": 0.8,
    "data.validation": 0.3,
    "data.labels_per_class": 20,
    "batch_size": 32,
    "teacher.epochs": 100,
    "search.epochs": 60,
    "distil.epochs": 100,
    "search.target.flops": 0.0,
    "search.target.params": 0.1,
    "evaluation.every_epochs": 50,
    "log.tensorboard": False,
}
# The row that the others are compared with: the peer with both of its better options, global
# pruning and a teacher.
PEER = "Torch-Pruning, global, distilled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--torch_python", required=True, help="a Python with Torch-Pruning 1.6.1")
    parser.add_argument("--out", default=".", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        own = networks(options.workdir, seed)
        rival, made = rivals(options.workdir, seed, options.torch_python)
        runs.append({"seed": seed, **own, **rival})
        made |= {"kdjax": kdjax.__version__, "jax": jax.__version__}
        made |= {"python": platform.python_version()}
        result = {"rows": summarize(runs), "runs": runs, "made_with": made}
        (options.out / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["rows"]))


def settings(seed: int, start: str) -> ml_collections.ConfigDict:
    """Returns the configuration of a search of the default network on few digits."""
    config = configuration.search_default()
    config.update_from_flattened_dict({**SETTINGS, "seeds": (seed,), "distil.start": start})
    return config


def networks(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """Runs `kdjax search` with one seed; returns name -> params, macs and test accuracy."""
    found = {}
    for start in ("fresh", "slim"):
        config = settings(seed, start)
        if start == "slim":  # Take the same teacher, so that the search is the same too.
            config.teacher.workdir = str(folder / f"fresh{seed}")
        summary = search(config, folder / f"{start}{seed}")
        if start == "fresh":
            found["kdjax, full"] = _numbers(summary["teacher"])
        for candidate in summary["candidates"]:
            found[f"kdjax, {candidate['name']}, {start}"] = _numbers(candidate)
    return found


def _numbers(network: dict[str, Any]) -> dict[str, float]:
    return {"params": network["params"], "macs": network["macs"], "accuracy": network["test"]}


def rivals(folder: Path, seed: int, python: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs Torch-Pruning with one seed; returns its networks by name, and its versions."""
    path = folder / f"rival{seed}.json"
    if not path.exists():
        path.write_text(_run_rival(folder, seed, python))
    found = json.loads(path.read_text())
    names = {f"Torch-Pruning, {name}": numbers for name, numbers in found["networks"].items()}
    return names, found["made_with"]


def _run_rival(folder: Path, seed: int, python: str) -> str:
    config = settings(seed, "fresh")
    dataset = read_dataset(config)
    data = folder / "digits.npz"
    np.savez(
        data,
        train_images=dataset.train.images[..., 0],
        train_labels=dataset.train.labels,
        test_images=dataset.test.images[..., 0],
        test_labels=dataset.test.labels,
        mean=dataset.mean[0],
        std=dataset.std[0],
    )
    full = models.create(config.network, dataset.num_classes, width=config.network_width)
    recipe = {
        "widths": dict(full.widths),
        "share": config.search.target.params,
        "batch_size": config.batch_size,
        "warmup_epochs": config.schedule.warmup_epochs,
        "learning_rate": config.schedule.learning_rate,
        "search_learning_rate": config.search.learning_rate,
        "momentum": config.optimizer.momentum,
        "weight_decay": config.optimizer.weight_decay,
        "temperature": config.temperature,
        "hard": config.weights.hard,
        "soft": config.weights.soft,
        "crop_padding": config.data.crop_padding,
        "teacher_epochs": config.teacher.epochs,
        "search_epochs": config.search.epochs,
        "distil_epochs": config.distil.epochs,
    }
    command = [python, str(RIVAL), f"--data={data}", f"--recipe={json.dumps(recipe)}"]
    return subprocess.run(
        [*command, f"--seed={seed}"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def summarize(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Returns means over seeds, and each row's difference from the peer, with 95 % intervals."""

    def percent(name: str) -> np.ndarray:
        return 100 * np.array([run[name]["accuracy"] for run in runs])

    rows = {}
    for name in (name for name in runs[0] if name != "seed"):
        from_peer = percent(name) - percent(PEER)
        rows[name] = {
            "params": mean([run[name]["params"] for run in runs]),
            "macs": mean([run[name].get("macs", float("nan")) for run in runs]),
            "accuracy": mean(percent(name)),
            "half_width": half_width(percent(name)),
            "minus_peer": mean(from_peer),
            "minus_peer_half_width": half_width(from_peer),
        }
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        f"| network | parameters | MACs | accuracy | minus {PEER}, points |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        near, away = (
            "" if row[key] is None else f" ± {row[key]:.2f}"
            for key in ("half_width", "minus_peer_half_width")
        )
        lines.append(
            f"| {name} | {row['params']:,.0f} | {row['macs']:,.0f} | {row['accuracy']:.2f}{near} | "
            + ("" if name == PEER else f"{row['minus_peer']:+.2f}{away} |")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Compares bfloat16 with float32 over 200 steps of the same run, without any loss scaling.

Only the arithmetic of the networks differs; parameters, statistics and losses are float32 in both.

Command:  python experiments/faults/bf16.py --out=bf16.json --plot=bf16.png
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from kdjax import config as configuration
from kdjax.train import train

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS, SEEDS, SMOOTH = 200, (0, 1, 2), 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="", help="JSON")
    parser.add_argument("--plot", default="", help="PNG")
    chosen = parser.parse_args()
    runs = {dtype: run(dtype) for dtype in ("float32", "bfloat16")}
    record = compare(runs)
    print(json.dumps(record, indent=1))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(record, indent=1) + "\n")
    if chosen.plot:
        plot(runs, chosen.plot)


def run(dtype: str) -> dict[str, Any]:
    """Trains the default ensemble.

    Returns:
      ``loss [seed, step]`` and validation ``accuracy [seed, student]``.
    """
    config = configuration.default()
    config.update_from_flattened_dict(
        {
            "network_width": 0.625,
            "method": "ensemble",
            "seeds": SEEDS,
            "epochs": 10,
            "weight_ramp.epochs": 10.0,
            "evaluation.every_epochs": 10,
            "log.every_steps": 1,
            "log.tensorboard": False,
            "log.progress": False,
            "compute.dtype": dtype,
            "compute.devices": 1,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run")
        text = (Path(folder) / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    names = [f"ensemble-seed{seed}" for seed in SEEDS]

    def of(kind: str, field: str) -> np.ndarray:
        return np.array(
            [[x[field] for x in lines if x["run"] == n and x["kind"] == kind] for n in names]
        )

    return {"loss": of("train", "loss")[:, :STEPS], "accuracy": of("validation", "accuracy")[:, -1]}


def smooth(losses: np.ndarray) -> np.ndarray:
    """Returns moving averages over ``SMOOTH`` steps, ``[seed, step]``."""
    kernel = np.full(SMOOTH, 1 / SMOOTH)
    return np.stack([np.convolve(row, kernel, "valid") for row in losses])


def compare(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns how far the two dtypes are apart, and how far seeds are apart."""
    one, other = (runs[dtype]["loss"] for dtype in ("float32", "bfloat16"))
    ratio = smooth(other) / smooth(one) - 1
    return {
        "steps": STEPS,
        "seeds": SEEDS,
        "all_finite": bool(np.isfinite(other).all()),
        "first_loss_difference": np.abs(other[:, 0] / one[:, 0] - 1).max(),
        "smoothed_loss_difference_mean": float(ratio.mean()),
        "smoothed_loss_difference_largest": float(np.abs(ratio).max()),
        "last_smoothed_loss": {d: smooth(runs[d]["loss"])[:, -1].tolist() for d in runs},
        "spread_between_seeds_of_float32": float(np.std(smooth(one)[:, -1], ddof=1)),
        "validation_accuracy": {d: runs[d]["accuracy"].mean(axis=0).tolist() for d in runs},
    }


def plot(runs: dict[str, dict[str, Any]], path: str) -> None:
    """Plots the smoothed losses of all seeds."""
    figure, axis = plt.subplots(figsize=(7, 4))
    for dtype, colour in (("float32", "#888888"), ("bfloat16", "#1f6fb4")):
        for seed, row in enumerate(smooth(runs[dtype]["loss"])):
            steps = np.arange(len(row)) + SMOOTH
            axis.plot(steps, row, color=colour, lw=1, label=dtype if seed == 0 else None)
    axis.set_xlabel("step")
    axis.set_ylabel(f"loss, mean over {SMOOTH} steps")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()

"""Measures what each habit of the ensemble paper's public code is worth, on the embedded digits.

Each row trains the same students with the paper's weights and one habit switched on. Accuracy is
measured on a large held-out split after every epoch, so that the best epoch can be compared with
the last one. Nothing is chosen by this accuracy.

Command:  python experiments/authors_code/run.py --out=experiments/authors_code
"""

import argparse
import contextlib
import dataclasses
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import config as configuration
from kdjax.statistics import half_width
from kdjax.train import train
from kdjax.train.program import compiled

HERE = Path(__file__).parent
# 200 training images; about 1,374 held-out images.
DATA = {"data.test": 0.1, "data.validation": 0.85, "data.labels_per_class": 20}
PAPER = {
    "weights.hard": 0.7,
    "weights.feature": 0.15,
    "weights.soft": 0.15,
    "weight_ramp.feature": "constant",
    "teacher_weights": (),
}


@contextlib.contextmanager
def late_adapters() -> Iterator[None]:
    """Makes the optimiser ignore the adapters until the second epoch."""
    build = compiled.Runner.__init__

    def init(self, method, config, feed, *rest, **more):
        epoch = compiled.steps_per_epoch(feed)
        more["wrap"] = lambda optimizer, schedule: optax.chain(
            silent(epoch), optimizer, silent(epoch)
        )
        build(self, method, config, feed, *rest, **more)

    with mock.patch.object(compiled.Runner, "__init__", init):
        yield


def silent(steps: int) -> optax.GradientTransformation:
    """Returns a transformation that sets updates of adapters to 0 in the first ``steps`` steps."""

    def update(updates, count, params=None):
        del params
        heard = jnp.where(count < steps, 0.0, 1.0)
        adapters = jax.tree.map(lambda leaf: leaf * heard, updates["adapters"])
        return {**updates, "adapters": adapters}, count + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


@contextlib.contextmanager
def batch_statistics() -> Iterator[None]:
    """Evaluates networks with the statistics of each batch instead of running statistics."""

    evaluate = compiled.evaluation_step

    def by_batch(variables, batch, *, method, axis_name=None):
        def apply(variables, images, train):
            del train
            more = {"train": True, "mask": batch.mask, "mutable": "batch_stats"}
            return method.model.apply(variables, images, **more)[0]

        training = dataclasses.replace(method, model=types.SimpleNamespace(apply=apply))
        return evaluate(variables, batch, method=training, axis_name=axis_name)

    with mock.patch.object(compiled, "evaluation_step", by_batch):
        yield


# Name of the row -> overrides, and a context manager that switches the habit on.
ROWS: Mapping[str, tuple[Mapping[str, Any], Any]] = {
    "alone": ({"method": "independent"}, contextlib.nullcontext),
    "paper": (PAPER, contextlib.nullcontext),
    "stem": (
        {**PAPER, "network": f"{HERE / 'stem_from_pivot.py'}:create"},
        contextlib.nullcontext,
    ),
    "adapters": (PAPER, late_adapters),
    "alone_batch": ({"method": "independent"}, batch_statistics),
    "paper_batch": (PAPER, batch_statistics),
}


def accuracies(folder: Path, seeds: int) -> np.ndarray:
    """Returns held-out accuracies in %, ``[seeds, epochs, students]``."""
    found: dict[int, list[list[float]]] = {seed: [] for seed in range(seeds)}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "validation":
            found[int(entry["run"].rpartition("seed")[2])].append(entry["accuracy"])
    return 100 * np.array(list(found.values()))


def summarize(curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns gains over the students alone, and how each habit changes gains and accuracies."""
    last = {name: curve[:, -1] for name, curve in curves.items()}
    best = {name: curve.max(axis=1) for name, curve in curves.items()}
    plain = last["paper"] - last["alone"]
    gains = {
        "the widest student alone trains the stem": last["stem"] - last["alone"],
        "adapters join the optimiser after an epoch": last["adapters"] - last["alone"],
        "the best epoch of each student, also alone": best["paper"] - best["alone"],
        "statistics of each batch, also alone": last["paper_batch"] - last["alone_batch"],
    }
    accuracies = {
        "alone, best epoch instead of the last": best["alone"] - last["alone"],
        "ensemble, best epoch instead of the last": best["paper"] - last["paper"],
        "alone, statistics of each batch": last["alone_batch"] - last["alone"],
        "ensemble, statistics of each batch": last["paper_batch"] - last["paper"],
    }
    return {
        "alone": last["alone"].mean(axis=0).tolist(),
        "gain": interval(plain),
        "change_of_gain": {name: interval(gain - plain) for name, gain in gains.items()},
        "change_of_accuracy": {name: interval(change) for name, change in accuracies.items()},
    }


def interval(points: np.ndarray) -> dict[str, Any]:
    """Returns means over the seeds of ``points [seeds, students]``, and 95 % half-widths."""
    return {
        "students": [
            {"points": float(own.mean()), "half_width": half_width(own)} for own in points.T
        ],
        "mean": {"points": float(points.mean()), "half_width": half_width(points.mean(axis=1))},
    }


def table(summary: Mapping[str, Any]) -> str:
    """Returns the results as Markdown tables."""

    def cell(entry: Mapping[str, float]) -> str:
        width = entry["half_width"]
        return f"{entry['points']:+.2f}" + ("" if width is None else f" ± {width:.2f}")

    def line(what: str, row: Mapping[str, Any]) -> str:
        return f"| {what} | " + " | ".join(map(cell, (*row["students"], row["mean"]))) + " |"

    def rows(title: str) -> list[str]:
        students = range(1, len(summary["alone"]) + 1)
        head = [title, *(f"s{number}" for number in students), "mean"]
        return ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]

    alone = [*summary["alone"], np.mean(summary["alone"])]
    lines = [
        *rows(""),
        "| alone, % | " + " | ".join(f"{value:.2f}" for value in alone) + " |",
        line("gain with the paper's weights", summary["gain"]),
        "",
        *rows("what a habit adds to the gain"),
        *(line(*row) for row in summary["change_of_gain"].items()),
        "",
        *rows("and to accuracies"),
        *(line(*row) for row in summary["change_of_accuracy"].items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=str(HERE), help="where the table is written")
    parser.add_argument("--runs", default="kdjax-runs/authors_code", help="where workdirs are")
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    curves = {}
    for name, (overrides, habit) in ROWS.items():
        config = configuration.first_run("train")
        config.update_from_flattened_dict(
            {**DATA, "method": "ensemble", "seeds": tuple(range(options.seeds)), **overrides}
        )
        config.evaluation.every_epochs = 1
        config.log.update(tensorboard=False, progress=False)
        folder = Path(options.runs) / name
        with habit():
            made_with = train(config, folder)["made_with"]
        curves[name] = accuracies(folder, options.seeds)
    summary = {**summarize(curves), "seeds": options.seeds, "made_with": made_with}
    out = Path(options.out)
    (out / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
    (out / "table.md").write_text(table(summary))
    print(table(summary))


if __name__ == "__main__":
    main()

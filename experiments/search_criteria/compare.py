"""Compares the criteria of a search at equal budget: what each keeps, and what that is worth.

One teacher is trained. For every seed there is one search per criterion, all of the same length and
budget. The structures found with a seed, and the uniform network (one width multiplier that meets
the budget without a search), are distilled side by side in one compiled step, from fresh weights.
The test split is never used.

Command:  python experiments/search_criteria/compare.py --out=experiments/search_criteria
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import kdjax
from kdjax import config as configuration
from kdjax.search import CRITERIA
from kdjax.statistics import deviation, half_width, mean
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.program.feed import steps_per_epoch
from kdjax.train.program.state import TrainState
from kdjax.train.tasks.experiment import Experiment, resolve, stage_config
from kdjax.train.tasks.search_stage import resolve_budget, search_method, search_optimizer
from kdjax.train.tasks.structure import Structure, find_structure

UNIFORM = "uniform"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--params", type=float, default=0.1, help="target, a share")
    parser.add_argument("--labels", type=int, default=20, help="of each class")
    parser.add_argument("--teacher_epochs", type=int, default=100)
    parser.add_argument("--search_epochs", type=int, default=60)
    parser.add_argument("--distil_epochs", type=int, default=100)
    parser.add_argument("--out", default=".")
    options = parser.parse_args()
    started = time.perf_counter()
    configs = {name: make_config(name, options) for name in CRITERIA}
    experiment = resolve(configs["scale"])
    teacher = train_teacher(experiment)
    searches = {name: Search(resolve(config), teacher) for name, config in configs.items()}
    records = []
    for seed in range(options.seeds):
        found = {name: search.structure(seed) for name, search in searches.items()}
        records.append(distil(experiment, teacher, found, seed))
    made = {
        "command": " ".join(f"--{name}={value}" for name, value in vars(options).items()),
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - started),
    }
    result = {"criteria": summarize(records), "runs": records, "made_with": made}
    Path(options.out, "results.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["criteria"]))


def make_config(criterion: str, options: argparse.Namespace) -> Any:
    """Returns the configuration of a search of the default network on the embedded digits."""
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {
            "network_width": 0.625,
            "search.criterion": criterion,
            "search.target.flops": 0.0,
            "search.target.params": options.params,
            "teacher.epochs": options.teacher_epochs,
            "search.epochs": options.search_epochs,
            "distil.epochs": options.distil_epochs,
            "data.labels_per_class": options.labels,
            "data.test": 0.2,
            "data.validation": 0.6,
            "batch_size": 32,
            "compute.devices": 1,
        }
    )
    return config


def train_teacher(experiment: Experiment) -> dict[str, Any]:
    """Trains the full network; returns its variables on the host."""
    feed = experiment.feed()
    config = stage_config(experiment.config, experiment.config.teacher.epochs)
    runner = experiment.runner("independent", feed, config)
    state = run(runner, runner.initial_state(0), config.epochs)
    return alone(runner.fetch(state), 1)


class Search:
    """The search with one criterion, compiled once."""

    def __init__(self, experiment: Experiment, teacher: dict[str, Any]):
        self.experiment, self.teacher = experiment, teacher
        self.budget = resolve_budget(experiment)
        wanted = experiment.config.search
        self.runner = Runner(
            search_method(experiment, self.budget),
            stage_config(experiment.config, wanted.epochs, constant_rate=wanted.learning_rate),
            experiment.feed(),
            experiment.parallel,
            teacher=teacher,
            wrap=search_optimizer(experiment, self.budget),
        )

    def structure(self, seed: int) -> Structure:
        """Searches from the teacher's weights, with batches drawn from ``seed``."""
        start = {kind: {"student_1": tree} for kind, tree in self.teacher.items()}
        state = self.runner.initial_state(seed).replace(**start)
        state = run(self.runner, state, self.experiment.config.search.epochs)
        return find_structure(self.experiment, self.budget, self.runner.fetch(state))


def distil(
    experiment: Experiment, teacher: dict[str, Any], found: dict[str, Structure], seed: int
) -> dict[str, Any]:
    """Returns widths, costs and validation accuracy of each structure and the uniform one."""
    widths = {name: structure.compact for name, structure in found.items()}
    widths[UNIFORM] = found["scale"].uniform
    config = stage_config(experiment.config, experiment.config.distil.epochs)
    feed = experiment.feed()
    method = methods.taught(
        config,
        experiment.architecture,
        tuple(widths.values()),
        (True,) * len(widths),
        experiment.parallel.axis_name,
        experiment.execution,
        image_shape=experiment.dataset.image_shape,
        steps_per_epoch=steps_per_epoch(feed),
    )
    runner = Runner(method, config, feed, experiment.parallel, teacher=teacher)
    state = run(runner, runner.initial_state(seed), config.epochs)
    accuracy = runner.evaluate(state.variables, "validation")["accuracy"]
    costs = {name: structure.compact_costs for name, structure in found.items()}
    costs[UNIFORM] = found["scale"].uniform_costs
    return {
        name: {"accuracy": float(score), "widths": dict(widths[name]), **costs[name]}
        for name, score in zip(widths, accuracy, strict=True)
    } | {"seed": seed}


def run(runner: Runner, state: TrainState, epochs: int) -> TrainState:
    """Runs all steps from a host state; returns the final state on the devices."""
    state, step = runner.place(state), 0
    for epoch in range(1, epochs + 1):
        inputs = runner.epoch(state, step)
        while step < epoch * runner.steps_per_epoch:
            end = epoch * runner.steps_per_epoch
            state, _, taken = runner.steps(state, inputs, step, end)
            step += taken
    return state


def alone(state: TrainState, number: int) -> dict[str, Any]:
    """Returns the variables of one student under the names of a network of its own."""
    return {
        kind: jax.tree.map(np.asarray, tree[f"student_{number}"])
        for kind, tree in state.variables.items()
    }


def summarize(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns means over seeds, and paired differences from the uniform network in points."""
    summary = {}
    for name in (*CRITERIA, UNIFORM):
        scores = [100 * record[name]["accuracy"] for record in records]
        rival = [100 * record[UNIFORM]["accuracy"] for record in records]
        ahead = list(np.subtract(scores, rival))
        summary[name] = {
            "accuracy": mean(scores),
            "std": deviation(scores),
            "minus_uniform": mean(ahead),
            "minus_uniform_half_width": half_width(ahead),
            "params": mean([record[name]["params"] for record in records]),
        }
    return summary


def table(summary: dict[str, dict[str, Any]]) -> str:
    """Returns the summary as a Markdown table."""
    lines = [
        "| criterion | parameters | validation accuracy | minus uniform, points |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, entry in summary.items():
        spread = "" if entry["std"] is None else f" (sd {entry['std']:.2f})"
        half = entry["minus_uniform_half_width"]
        width = "" if half is None else f" ± {half:.2f}"
        lines.append(
            f"| {name} | {entry['params']:,.0f} | {entry['accuracy']:.2f}{spread} "
            f"| {entry['minus_uniform']:+.2f}{width} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

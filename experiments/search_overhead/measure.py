"""Measures the time that the penalty and its controller add to a training step.

Three training steps of the same full network on the same images are timed in turn: the teacher's
own training, a student with a frozen teacher, and this student under the search's controller.
Dispatches of the three alternate, so that a noisy machine disturbs all alike.

Command:  python experiments/search_overhead/measure.py --network=resnet20 --out=overhead.json
"""

import argparse
import json
import platform
import time

import jax
import numpy as np

import kdjax
from kdjax import config as configuration
from kdjax import models
from kdjax.data import Dataset
from kdjax.data.batches import Batches, device_data
from kdjax.data.dataset import Split
from kdjax.train.devices.parallel import choose
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.program.feed import Resident, steps_per_epoch
from kdjax.train.tasks.experiment import Experiment, stage_config
from kdjax.train.tasks.search_stage import resolve_budget, search_method, search_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="of the square images, in pixels")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dispatch", type=int, default=0, help="steps; 0: the backend's choice")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    runners = make_runners(options)
    states = {name: runner.place(runner.initial_state(0)) for name, runner in runners.items()}
    taken = dict.fromkeys(runners, 0)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(options.rounds + 2):
        for name, runner in runners.items():
            inputs = runner.epoch(states[name], 0)
            started = time.perf_counter()
            states[name], metrics, steps = runner.steps(states[name], inputs, taken[name], 10**6)
            jax.block_until_ready((states[name], metrics))
            if number >= 2:  # The first two rounds compile and warm up.
                times[name].append((time.perf_counter() - started) / steps)
            taken[name] += steps
    print(report(options, times))


def make_runners(options: argparse.Namespace) -> dict[str, Runner]:
    """Returns runners of the three training steps, not compiled yet, on generated images."""
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {
            "network": options.network,
            "network_width": 1.0,
            "batch_size": options.batch,
            "data.crop_padding": 4,
            "data.flip": True,
            "compute.devices": 1,
            "compute.dtype": options.dtype,
            "compute.steps_per_dispatch": options.dispatch,
        }
    )
    rng = np.random.default_rng(0)
    count = 64 * options.batch
    split = Split(
        rng.integers(0, 256, (count, options.size, options.size, 3), dtype=np.uint8),
        rng.integers(0, 10, count).astype(np.int32),
    )
    empty = Split(split.images[:0], split.labels[:0])
    statistics = ((0.5,) * 3, (0.25,) * 3)
    dataset = Dataset("generated", split, empty, split, tuple("0123456789"), *statistics)
    parallel = choose(1)
    architecture = models.create(options.network, 10)
    experiment = Experiment(config, dataset, architecture, (architecture.widths,), parallel)
    host, bounds = device_data(dataset)
    batches = Batches(
        count, options.batch, 1, dataset.image_shape, *statistics, crop_padding=4, flip=True
    )
    feed = Resident(host, bounds, batches, batches, parallel)
    stage = stage_config(config, 20, constant_rate=0.05)
    budget = resolve_budget(experiment)
    teacher = models.initialize(architecture.build(), 1, dataset.image_shape)
    full = (architecture.widths,)
    taught = methods.taught(
        stage,
        architecture,
        full,
        (True,),
        None,
        image_shape=dataset.image_shape,
        steps_per_epoch=steps_per_epoch(feed),
    )
    return {
        "teacher": experiment.runner("independent", feed, stage),
        "distilled": Runner(taught, stage, feed, parallel, teacher=teacher),
        "searched": Runner(
            search_method(experiment, budget),
            stage,
            feed,
            parallel,
            teacher=teacher,
            wrap=search_optimizer(experiment, budget),
        ),
    }


def report(options: argparse.Namespace, times: dict[str, list[float]]) -> str:
    """Returns the results as JSON and writes them if ``options.out`` names a file.

    Ratios are medians of the ratios of neighbouring dispatches, with their quartiles.
    """

    def ratio(first: str, second: str) -> dict[str, float]:
        values = np.divide(times[first], times[second])
        low, middle, high = np.percentile(values, [25, 50, 75])
        return {"median": float(middle), "quartiles": [float(low), float(high)]}

    content = {
        "milliseconds_per_step": {n: 1000 * float(np.median(t)) for n, t in times.items()},
        "searched_over_distilled": ratio("searched", "distilled"),
        "searched_over_teacher": ratio("searched", "teacher"),
        "options": vars(options),
        "device": jax.devices()[0].device_kind,
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    text = json.dumps(content, indent=2)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")
    return text


if __name__ == "__main__":
    main()

"""Measures start-up, speed and memory of training jobs, which run in turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from kdjax.bench.limits import (
    Layer,
    Rates,
    Work,
    adapter_layers,
    ensemble_layers,
    evaluation_work,
    independent_layers,
    limit,
    training_work,
)
from kdjax.bench.workload import Job, Workload
from kdjax.train.tasks.experiment import Experiment

ROUND_SECONDS = 0.5  # About how long one turn of one job lasts.


class Trial:
    """The measurement of one workload, which is started once and then runs in turns.

    Attributes:
      job: the started workload.
      startup: seconds of ``initialize``, ``trace``, ``compile`` and ``first_step``, and their sum.
      memory: bytes; see :func:`memory`.
      seconds: seconds per training step, one number for each turn.
    """

    def __init__(self, workload: Workload):
        """Compiles the workload's step and runs the first steps."""
        self.job = Job(workload)
        program, seconds = self.job.runner.compile_steps(self.job.state, self.job.inputs)
        started = time.perf_counter()
        self.job.dispatch()
        first = time.perf_counter() - started
        self.startup = {"initialize": self.job.initialization_seconds, **seconds}
        self.startup["first_step"] = first
        self.startup["time_to_first_step"] = sum(self.startup.values())
        self.memory = memory(program, self.job)
        self.seconds: list[float] = []
        # The first dispatch warms up the caches; the time of the second one decides how many
        # dispatches make a turn.
        started = time.perf_counter()
        self.job.dispatch()
        self._dispatches = max(1, round(ROUND_SECONDS / (time.perf_counter() - started)))

    def turn(self) -> None:
        """Runs one turn and records the seconds per step."""
        started = time.perf_counter()
        steps = self.job.dispatch(self._dispatches)
        self.seconds.append((time.perf_counter() - started) / steps)

    def finish(self, rates: Rates, first: "Trial") -> dict[str, Any]:
        """Returns the measurements, as JSON.

        Args:
          rates: the rates of all used devices together.
          first: the trial to compare with, which has the same number of turns.
        """
        workload = self.job.workload
        speeds = [workload.batch_size / seconds for seconds in self.seconds]
        ratios = [
            theirs / ours * workload.batch_size / first.job.workload.batch_size
            for ours, theirs in zip(self.seconds, first.seconds, strict=True)
        ]
        training, evaluation = work(workload)
        evaluated = self._rate(lambda: self.job.evaluate(4))
        made = self._rate(lambda: self.job.make_batches(self._dispatches))
        step_seconds = statistics.median(self.seconds)
        return {
            "workload": {
                name: getattr(workload, name)
                for name in (
                    *("network", "batch_size", "image_size", "classes", "dtype", "execution"),
                    *("devices", "method", "remat"),
                )
            }
            | {"students": len(workload.student_scales)},
            "steps_per_dispatch": self.job.runner.steps_per_dispatch,
            "startup_seconds": self.startup,
            "step_seconds": step_seconds,
            "images_per_second": spread(speeds),
            "ratio_to_first": spread(ratios),
            "training_limit": limit(training, rates, statistics.median(speeds)),
            "evaluation_images_per_second": evaluated,
            "evaluation_limit": limit(evaluation, rates, evaluated),
            "input_share": 1 / (made * step_seconds),
            "memory_bytes": self.memory,
        }

    def _rate(self, run: Callable[[], int]) -> float:
        """Returns how much ``run`` does per second: the best of three calls after a first one."""
        run()
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            done = run()
            rates.append(done / (time.perf_counter() - started))
        return max(rates)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns ``median`` and the quartiles ``low`` and ``high``."""
    if len(values) < 2:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def work(workload: Workload) -> tuple[Work, Work]:
    """Returns the work per image of a training step and an evaluation, counted by layer."""
    experiment = workload.experiment(images=workload.batch_size)
    shape = (workload.image_size, workload.image_size, 3)
    widths = experiment.student_widths
    own = max(1, workload.batch_size // workload.devices)
    number_bytes = 2 if workload.dtype == "bfloat16" else 4
    layers, adapters = _layers(workload, experiment), tuple[Layer, ...]()
    if workload.method == "ensemble":
        adapters = adapter_layers([_maps(experiment.architecture, each, shape) for each in widths])
    return (
        training_work((*layers, *adapters), number_bytes, own),
        evaluation_work(layers, number_bytes, own),
    )


def _layers(workload: Workload, experiment: Experiment) -> tuple[Layer, ...]:
    """The layers of all students; those of a shared stem once."""
    shape = (workload.image_size, workload.image_size, 3)
    architecture, widths = experiment.architecture, experiment.student_widths
    if workload.method == "ensemble":
        return ensemble_layers(architecture, widths, shape)
    tables = independent_layers(architecture, widths, shape)
    return tuple(layer for table in tables for layer in table)


def _maps(architecture: Any, widths: Any, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The shape of the map after each block of one student."""
    net = architecture.build(widths)
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    outputs = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], images)
    return [feature.shape[1:] for feature in outputs.features]


def memory(program: Any, job: Job) -> dict[str, float]:
    """Returns the bytes used on one device.

    Returns:
      ``planned``: arguments, results and temporaries of the compiled step; ``state``: parameters,
      optimiser state and statistics; ``data``: the images; ``activations``: one output of each
      normalised layer, computed from the layers' shapes; ``device_peak``, if the device reports it:
      the most memory in use since the process began, by all workloads that are measured together.
    """
    workload = job.workload
    analysis = program.memory_analysis()
    planned = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    device = jax.devices()[0].memory_stats() or {}
    experiment = workload.experiment(images=workload.batch_size)
    layers = _layers(workload, experiment)
    outputs = sum(layer.cost.activations for layer in layers if layer.norm)
    number_bytes = 2 if workload.dtype == "bfloat16" else 4
    share = workload.batch_size // workload.devices
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(job.state)) // workload.devices
    images = sum(leaf.nbytes for leaf in jax.tree.leaves(job.data)) // workload.devices
    found = {
        "planned": float(planned),
        "state": float(held),
        "data": float(images),
        "activations": float(outputs * share * number_bytes),
    }
    if "peak_bytes_in_use" in device:
        found["device_peak"] = float(device["peak_bytes_in_use"])
    return found

"""What is measured: one training method on generated images, through the compiled functions that
`kdjax train` uses."""

import dataclasses
import time
from typing import Any

import chex
import jax
import numpy as np

from kdjax import config as configuration
from kdjax import models
from kdjax.data import Dataset
from kdjax.data.batches import Batch
from kdjax.data.dataset import Split
from kdjax.models.ensemble import student_vectors
from kdjax.train.devices.parallel import choose
from kdjax.train.program.state import TrainState
from kdjax.train.tasks.experiment import Experiment

_MEAN, _DEVIATION = (0.5,) * 3, (0.25,) * 3


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training job of a size to be measured.

    Attributes:
      network: as in :func:`kdjax.models.create`, at its full widths.
      batch_size: images a step, over all devices.
      dtype: of the networks, ``float32`` or ``bfloat16``.
      execution: how the students run: a value of ``config.compute.execution``.
      devices: how many.
      student_scales: one factor per student.
      classes: of the classifiers.
      image_size: height and width in pixels.
      method: ``ensemble`` or ``independent``.
      remat: compute blocks again in the backward pass.
      overrides: further fields of the configuration, ``(name, value)``.
    """

    network: str = "resnet20"
    batch_size: int = 64
    dtype: str = "float32"
    execution: str = "auto"
    devices: int = 1
    student_scales: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)
    classes: int = 10
    image_size: int = 32
    method: str = "ensemble"
    remat: bool = False
    overrides: tuple[tuple[str, object], ...] = ()

    def experiment(self, images: int = 0) -> Experiment:
        """The experiment, on ``images`` generated images (0: eight batches)."""
        config = configuration.default()
        config.update_from_flattened_dict(
            {
                "network": self.network,
                "network_width": 1.0,
                "student_scales": self.student_scales,
                "method": self.method,
                "batch_size": self.batch_size,
                "data.crop_padding": 4,
                "data.flip": True,
                "compute.devices": self.devices,
                "compute.dtype": self.dtype,
                "compute.execution": self.execution,
                "compute.remat": self.remat,
                "evaluation.batch_size": self.batch_size,
                **dict(self.overrides),
            }
        )
        configuration.validate(config)
        architecture = models.create(self.network, self.classes)
        return Experiment(
            config,
            self._dataset(images or 8 * self.batch_size),
            architecture,
            student_vectors(architecture, self.student_scales),
            choose(self.devices),
        )

    def _dataset(self, count: int) -> Dataset:
        rng = np.random.default_rng(0)
        shape = (count, self.image_size, self.image_size, 3)
        labels = rng.integers(0, self.classes, count).astype(np.int32)
        split = Split(rng.integers(0, 256, shape, dtype=np.uint8), labels)
        empty = Split(split.images[:0], split.labels[:0])
        names = tuple(str(number) for number in range(self.classes))
        return Dataset("generated", split, empty, split, names, _MEAN, _DEVIATION)


class Job:
    """A workload under way: a state, and the inputs of its first epoch, on the devices.

    Attributes:
      workload: what it is.
      runner: the compiled functions.
      data: the images on the devices.
      state: after ``taken`` steps.
      inputs: of the epoch.
      initialization_seconds: what preparing the functions and drawing the variables took, on the
        host; without making the images and moving them to the devices.
    """

    def __init__(self, workload: Workload, seed: int = 0):
        """Makes the functions and the state; no step is compiled before the first one."""
        self.workload = workload
        experiment = workload.experiment()
        feed = experiment.feed()
        self.data = feed.data
        jax.block_until_ready(self.data)
        started = time.perf_counter()
        self.runner = experiment.runner(workload.method, feed)
        state = self.runner.initial_state(seed)
        self.initialization_seconds = time.perf_counter() - started
        self.state: TrainState = self.runner.place(state)
        self.inputs = self.runner.epoch(self.state, 0)
        self.taken = 0
        self._parallel = experiment.parallel
        self._input = experiment.parallel.compile(self._make_batches)

    def dispatch(self, count: int = 1) -> int:
        """``count`` dispatches of training steps, waited for; returns how many steps they took."""
        before = self.taken
        for _ in range(count):
            # The epoch goes round for ever: an order is as long as the epoch, whatever the step.
            self.state, metrics, steps = self.runner.steps(
                self.state, self.inputs, self.taken, 2**30
            )
            self.taken += steps
        jax.block_until_ready((self.state, metrics))
        return self.taken - before

    def evaluate(self, batches: int) -> int:
        """Evaluates on so many batches, at most eight; returns how many images they had."""
        limit = min(self.runner.feed.sizes["train"], batches * self.workload.batch_size)
        self.runner.evaluate(self.state.variables, "train", limit)
        return limit

    def make_batches(self, count: int = 1) -> int:
        """The batches of ``count`` dispatches without the training; returns how many they were."""
        for _ in range(count):
            batch = self._input(self.data, next(self.inputs), self.state.key, self.state.step)
        jax.block_until_ready(batch)
        return count * self.runner.steps_per_dispatch

    def _make_batches(self, data: Any, given: Any, key: chex.PRNGKey, step: chex.Array) -> Batch:
        def make(number: chex.Numeric) -> Batch:
            return self.runner.feed.train(
                data,
                given,
                jax.random.wrap_key_data(key),
                step + number,
                self._parallel.device_index(),
            )

        # Carried through the loop, every batch has to be written to memory.
        count = self.runner.steps_per_dispatch
        return jax.lax.fori_loop(1, count, lambda number, _: make(number), make(0))

"""The workload that is measured: one training method on generated images.

It uses the same compiled functions as `kdjax train`.
"""

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
    """A training job that is measured.

    Attributes:
      network: as in :func:`kdjax.models.create`, at its full widths.
      batch_size: images per step, over all devices.
      dtype: the networks' dtype, ``float32`` or ``bfloat16``.
      execution: how the students run: a value of ``config.compute.execution``.
      devices: the number of devices.
      student_scales: one width factor per student.
      classes: the number of classes.
      image_size: height and width in pixels.
      method: ``ensemble`` or ``independent``.
      remat: whether to compute blocks again in the backward pass.
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
        """Returns the experiment on ``images`` generated images; 0 means eight batches."""
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
    """A started workload: its state and the inputs of its first epoch, on the devices.

    Attributes:
      workload: the workload.
      runner: the compiled functions.
      data: the images on the devices.
      state: the state after ``taken`` steps.
      inputs: the inputs of the epoch.
      initialization_seconds: the time on the host to prepare the functions and draw the variables,
        without making the images and moving them to the devices.
    """

    def __init__(self, workload: Workload, seed: int = 0):
        """Makes the functions and the state; the training step is not compiled yet."""
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
        """Runs ``count`` dispatches of training steps to their end; returns the number of steps."""
        before = self.taken
        for _ in range(count):
            # The same epoch is repeated for ever: its order of examples fits any step.
            self.state, metrics, steps = self.runner.steps(
                self.state, self.inputs, self.taken, 2**30
            )
            self.taken += steps
        jax.block_until_ready((self.state, metrics))
        return self.taken - before

    def evaluate(self, batches: int) -> int:
        """Evaluates on ``batches`` batches, at most eight; returns their number of images."""
        limit = min(self.runner.feed.sizes["train"], batches * self.workload.batch_size)
        self.runner.evaluate(self.state.variables, "train", limit)
        return limit

    def make_batches(self, count: int = 1) -> int:
        """Makes the batches of ``count`` dispatches without training; returns their number."""
        for _ in range(count):
            batch = self._input(self.data, next(self.inputs), self.state.key, self.state.step)
        jax.block_until_ready(batch)
        return count * self.runner.steps_per_dispatch

    def _make_batches(self, data: Any, given: Any, key: chex.PRNGKey, step: chex.Array) -> Batch:
        def make(number: chex.Numeric) -> Batch:
            return self.runner.feed.train_batch(
                data,
                given,
                jax.random.wrap_key_data(key),
                step + number,
                self._parallel.device_index(),
            )

        # Each batch is carried through the loop, so it has to be written to memory.
        count = self.runner.steps_per_dispatch
        return jax.lax.fori_loop(1, count, lambda number, _: make(number), make(0))

"""Tasks of several stages: what these share, how one is run, and students beside each other."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from kdjax import costs
from kdjax.statistics import deviation, half_width, mean
from kdjax.train.devices import processes
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.program.feed import steps_per_epoch
from kdjax.train.program.fixed_teacher import FixedTeachers
from kdjax.train.program.state import TrainState
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.interrupt import Interrupts
from kdjax.train.run.metrics import MetricsWriter
from kdjax.train.run.progress import ProgressReport
from kdjax.train.run.run import Run
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.results import Measured, over_seeds
from kdjax.train.tasks.train import run_name
from kdjax.widths import WidthVector

# The runs in which students learn from a fixed teacher, and others beside them from labels alone.
STUDENTS = "distil"


class Stages:
    """What all stages of a task share, and how one is run."""

    def __init__(
        self, experiment: Experiment, path: Path, stack: contextlib.ExitStack, epochs: int
    ):
        """Opens what all stages use.

        Args:
          experiment: of the task; a stage may replace its network.
          path: the workdir, claimed.
          stack: closes everything.
          epochs: of all stages and seeds together.
        """
        self.experiment, self.config, self.path = experiment, experiment.config, path
        self.feed = experiment.feed()
        config = self.config
        self._stack = stack
        self._elsewhere = not processes.is_first()
        self._writer = MetricsWriter(
            path, tensorboard=config.log.tensorboard, elsewhere=self._elsewhere
        )
        stack.callback(self._writer.close)
        self._interrupts = stack.enter_context(Interrupts())
        self.progress = ProgressReport(
            epochs * self.feed.sizes["train"], bar=config.log.progress, silent=self._elsewhere
        )
        stack.enter_context(self.progress)

    def runner(self, method: methods.Method, config: ml_collections.ConfigDict, **more: Any):
        """The compiled functions of a stage with the configuration of :func:`stage_config`."""
        return Runner(method, config, self.feed, self.experiment.parallel, **more)

    def run(
        self,
        stage: str,
        runner: Runner,
        config: ml_collections.ConfigDict,
        experiment: Experiment,
        seed: int,
        **more: Any,
    ) -> tuple[Run, TrainState]:
        """Runs a stage from where it is to its end.

        Args:
          stage: its name.
          runner: its compiled functions.
          config: of the stage.
          experiment: with the networks of the stage, for the record in its checkpoints.
          seed: of initialisation, order and augmentation.
          more: of :class:`kdjax.train.run.run.Run`.

        Returns:
          The run and its last state, on the host.
        """
        name = run_name(stage, seed)
        checkpoints = Checkpoints(
            self.path / "checkpoints" / name, config.checkpoint.keep, elsewhere=self._elsewhere
        )
        self._stack.callback(checkpoints.close)
        run = Run(
            name=name,
            seed=seed,
            runner=runner,
            config=config,
            checkpoints=checkpoints,
            record={**experiment.record, "method": stage, "seed": seed},
            writer=self._writer,
            progress=self.progress,
            interrupts=self._interrupts,
            **more,
        )
        return run, run.finish()

    def write_results(self, summary: dict[str, Any], runs: Mapping[str, Run | None]) -> None:
        """Adds rates to a summary and writes ``results.json``.

        Args:
          summary: changed in place.
          runs: of each stage the last; None: it was not run here.
        """
        # A stage that was already finished was not timed again: its rate stays as it was measured.
        timed = {
            name: {"images_per_second": run.images_per_second}
            for name, run in runs.items()
            if run is not None and run.images_per_second
        }
        earlier = workdir.read_json(self.path / "results.json").get("throughput", {})
        summary["throughput"] = earlier | timed
        processes.on_first_unshared(lambda: workdir.write_json(self.path / "results.json", summary))


class Learner(NamedTuple):
    """A network of the last stage.

    Attributes:
      name: in tables and results.
      widths: of the network.
      distilled: whether the teacher teaches it; else it learns from labels alone.
    """

    name: str
    widths: WidthVector
    distilled: bool


def train_students(
    stages: Stages,
    learners: Sequence[Learner],
    config: ml_collections.ConfigDict,
    teacher: Any,
    *,
    teachers: FixedTeachers | None = None,
    ramps: bool = False,
    begin: Callable[[TrainState], TrainState] = lambda state: state,
) -> list[tuple[Run, TrainState]]:
    """Trains networks beside each other, those that are distilled from a fixed teacher.

    Args:
      stages: of the task.
      learners: all of the experiment's architecture.
      config: of the stage.
      teacher: host variables of the teacher, or what ``teachers`` takes in their place.
      teachers: which networks teach; None: the full network of the experiment.
      ramps: whether the weights of the terms grow as ``config.weight_ramp`` says.
      begin: initial state -> state to start from.

    Returns:
      Of each seed the run and its last state, on the host.
    """
    vectors = tuple(learner.widths for learner in learners)
    experiment = dataclasses.replace(stages.experiment, student_widths=vectors)
    method = methods.taught(
        config,
        experiment.architecture,
        vectors,
        tuple(learner.distilled for learner in learners),
        experiment.parallel.axis_name,
        experiment.execution,
        teachers=teachers,
        image_shape=experiment.dataset.image_shape,
        steps_per_epoch=steps_per_epoch(stages.feed) if ramps else 0,
    )
    runner = stages.runner(method, config, teacher=teacher)
    return [
        stages.run(STUDENTS, runner, config, experiment, seed, begin=begin)
        for seed in stages.config.seeds
    ]


def train_alone(
    stages: Stages, name: str, config: ml_collections.ConfigDict, experiment: Experiment
) -> tuple[Run, TrainState]:
    """Trains one network from labels, with the first seed.

    Args:
      stages: of the task.
      name: of the stage.
      config: of the stage.
      experiment: with the network's architecture, and its widths as those of the only student.
    """
    runner = experiment.runner("independent", stages.feed, config)
    return stages.run(name, runner, config, experiment, stages.config.seeds[0])


def alone(state: TrainState) -> dict[str, Any]:
    """The variables of a stage with one network, as those of the network itself."""
    return {kind: tree["student_1"] for kind, tree in state.variables.items()}


def cost_entry(experiment: Experiment, widths: WidthVector) -> dict[str, Any]:
    """Widths and cost of a network of the experiment, as entries of results."""
    cost = costs.count(experiment.architecture, widths, experiment.dataset.image_shape)
    return {
        "widths": dict(widths),
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
    }


def accuracy_entry(measured: Sequence[Measured], kind: str, place: int) -> dict[str, Any]:
    """Accuracies of a network over seeds, as entries of results.

    Args:
      measured: of each seed.
      kind: ``last`` or ``best``.
      place: of the network among those trained beside each other, from 0.
    """
    entry: dict[str, Any] = {}
    scores = [one.scores[kind] for one in measured]
    for split, short in (("test", "test"), ("validation", "val")):
        values = [float(score[split]["accuracy"][place]) for score in scores if split in score]
        if values:
            entry |= over_seeds(values, short)
    return entry


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Of paired accuracies, in percentage points: mean, deviation and half the 95 % interval."""
    points = 100 * np.subtract(first, second)
    return {"mean": mean(points), "std": deviation(points), "half_width": half_width(points)}

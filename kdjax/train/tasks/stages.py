"""What the stages of a task share, and how a stage is run."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from kdjax import atomic, models
from kdjax.train.devices import processes
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.program.state import TrainState
from kdjax.train.run.run import Run
from kdjax.train.run.workspace import Workspace
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.results import Measured


class Stages:
    """Runs the stages of a task, and holds what they share."""

    def __init__(
        self, experiment: Experiment, path: Path, stack: contextlib.ExitStack, epochs: int
    ):
        """Puts the data on the devices, and opens the workdir's files and the progress line.

        Args:
          experiment: the experiment of the task; a stage may replace its network.
          path: the workdir, already claimed.
          stack: closes everything that is opened here.
          epochs: the epochs of all stages and seeds together.
        """
        self.experiment, self.config = experiment, experiment.config
        self.feed = experiment.feed()
        stack.callback(self.feed.close)
        images = epochs * self.feed.sizes["train"]
        self._workspace = Workspace(path, self.config.log, images, stack)

    def say(self, *lines: str) -> None:
        """Prints lines for the user, such as what is about to be done or what was found."""
        self._workspace.progress.say("\n".join(lines))

    def runner(
        self, method: methods.Method, config: ml_collections.ConfigDict, **more: Any
    ) -> Runner:
        """Returns a stage's compiled functions.

        Args:
          method: what the stage trains.
          config: the stage's configuration, from :func:`stage_config`.
          more: ``teacher`` and ``wrap`` of :class:`kdjax.train.program.compiled.Runner`.
        """
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
        """Runs a stage from its last checkpoint to its end.

        Args:
          stage: the name of the stage.
          runner: its compiled functions.
          config: its configuration.
          experiment: an experiment with the networks of the stage, for the record in checkpoints.
          seed: the seed of initialisation, data order and augmentation.
          more: further arguments of :class:`kdjax.train.run.run.Run`.

        Returns:
          The run and its last state, on the host.
        """
        record = {**experiment.record, "method": stage, "seed": seed}
        name = run_name(stage, seed)
        run = Run(name, seed, runner, config, record, self._workspace, **more)
        return run, run.train()

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file of the workdir, in the first process only.

        Args:
          name: the name of the file.
          write: a function that writes the file, given its path.
        """
        processes.on_first_unshared(lambda: write(self._workspace.path / name))

    def write_results(self, summary: dict[str, Any], runs: Mapping[str, Sequence[Run]]) -> None:
        """Adds speeds and remarks of the runs to a summary, and writes ``results.json``.

        Args:
          summary: the content of ``results.json``, changed in place.
          runs: stage -> its runs.
        """
        if remarks := [
            line for group in runs.values() for run in group for line in run.history.remarks
        ]:
            summary["remarks"] = remarks
        # A run that had already finished was not timed again, so its earlier rate is kept.
        summary["throughput"] = atomic.read_json(self._workspace.path / "results.json").get(
            "throughput", {}
        )
        for stage, group in runs.items():
            rates = [run.throughput.images_per_second for run in group]
            if timed := [rate for rate in rates if rate]:
                summary["throughput"][stage] = {"images_per_second": float(np.median(timed))}
        self.write("results.json", lambda path: atomic.write_json(path, summary))


def run_name(method: str, seed: int) -> str:
    """The name of a run in checkpoints, metrics and events."""
    return f"{method}-seed{seed}"


def measure(method: str, run: Run, last: TrainState) -> Measured:
    """Evaluates a finished run, last state and best checkpoint, on validation and test.

    Args:
      method: the name of the method or stage, such as ``ensemble``; it is stored with the scores.
      run: the run, for its runner, seed and checkpoints.
      last: its state after the last step.
    """
    states = {"last": last}
    if (best := run.history.best_state(last)) is not None:
        states["best"] = best
    scores: dict[str, dict[str, Any]] = {}
    for checkpoint, state in states.items():
        variables = run.runner.place_variables(state.variables)
        scores[checkpoint] = {"step": int(state.step)} | evaluations(run.runner, variables)
    return Measured(method, run.seed, scores)


def evaluations(runner: Runner, variables: Any) -> dict[str, Any]:
    """Evaluates variables that are on the devices; returns split -> metrics."""
    return {
        split: runner.evaluate(variables, split)
        for split in ("validation", "test")
        if runner.feed.sizes[split]
    }


def train_alone(
    stages: Stages, name: str, config: ml_collections.ConfigDict, experiment: Experiment
) -> tuple[Run, TrainState]:
    """Trains one network from labels, with the first seed.

    Args:
      stages: the stages of the task.
      name: the name of the stage.
      config: the configuration of the stage.
      experiment: with the network's architecture, and its widths as those of the only student.
    """
    runner = experiment.runner("independent", stages.feed, config)
    return stages.run(name, runner, config, experiment, stages.config.seeds[0])


def only_network(state: TrainState) -> dict[str, Any]:
    """Returns the variables of a stage's only network, as the network itself takes them."""
    own = models.student_name(1)
    return {collection: tree.get(own, {}) for collection, tree in state.variables.items()}

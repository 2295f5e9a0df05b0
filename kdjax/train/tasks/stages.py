"""Tasks of several stages: what these share, and how one is run."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from kdjax import atomic
from kdjax.train.devices import processes
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.program.state import TrainState
from kdjax.train.run.run import Run
from kdjax.train.run.workspace import Workspace
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.results import Measured


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
        self.experiment, self.config = experiment, experiment.config
        self.feed = experiment.feed()
        images = epochs * self.feed.sizes["train"]
        self._workspace = Workspace(path, self.config.log, images, stack)

    def say(self, *lines: str) -> None:
        """Tells a person what is about to be done, or was found."""
        self._workspace.progress.say("\n".join(lines))

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
        record = {**experiment.record, "method": stage, "seed": seed}
        name = run_name(stage, seed)
        run = Run(name, seed, runner, config, record, self._workspace, **more)
        return run, run.finish()

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file of the workdir, in one process.

        Args:
          name: of the file.
          write: takes its path.
        """
        processes.on_first_unshared(lambda: write(self._workspace.path / name))

    def write_results(self, summary: dict[str, Any], runs: Mapping[str, Sequence[Run]]) -> None:
        """Adds to a summary what its runs know of themselves, and writes ``results.json``.

        Args:
          summary: changed in place.
          runs: of each stage.
        """
        if raised := [
            line for group in runs.values() for run in group for line in run.history.raised
        ]:
            summary["raised"] = raised
        # A run that was already finished was not timed again: its rate stays as it was measured.
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
        scores[checkpoint] = {"step": int(state.step)} | {
            split: run.runner.evaluate(variables, split)
            for split in ("validation", "test")
            if run.runner.feed.sizes[split]
        }
    return Measured(method, run.seed, scores)


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
    return {collection: tree.get("student_1", {}) for collection, tree in state.variables.items()}

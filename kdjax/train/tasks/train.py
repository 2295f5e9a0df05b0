"""Trains a whole experiment: every method and seed in turn, then the test set is used once."""

import contextlib
import os
from pathlib import Path
from typing import Any

import ml_collections

from kdjax import config as configuration
from kdjax import costs
from kdjax.train.devices import processes
from kdjax.train.program.state import TrainState
from kdjax.train.run import workdir
from kdjax.train.run.run import Run
from kdjax.train.tasks import announcing, results
from kdjax.train.tasks.experiment import Experiment, read_widths, resolve_in_all
from kdjax.train.tasks.own_losses import try_own_losses
from kdjax.train.tasks.stages import Stages, measure
from kdjax.train.tasks.trained_on import TrainedOn


def train(config: ml_collections.ConfigDict, path: str | Path) -> dict[str, Any]:
    """Trains what ``config`` says in the directory ``path``, continuing what is already there.

    Args:
      config: every field as in :data:`kdjax.config.FIELDS`.
      path: the workdir. If it is missing or empty, a new experiment starts. If it holds one of the
        same configuration, this one is continued, or read if it is finished. Seeds may be added;
        they are trained too. Anything else is refused and left as it is.

    Returns:
      The content of ``results.json``.

    Raises:
      kdjax.config.ConfigError, kdjax.data.DataError, kdjax.train.run.workdir.WorkdirError: for bad
        input, before anything is written.
      kdjax.train.run.interrupt.Interrupted: after SIGINT or SIGTERM; all is saved.
      kdjax.train.program.non_finite.NonFiniteError: if a loss, gradient or statistic is not finite.
    """
    path = Path(os.path.expanduser(path))
    configuration.validate(config, "train")
    experiment = resolve_in_all(config, path)
    if "ensemble" in experiment.methods:
        processes.in_all(
            lambda: try_own_losses(experiment, path, lambda: experiment.method("ensemble"))
        )
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(workdir.claimed(path, config))
            workdir.check_widths(path, experiment.student_widths)
            workdir.record_data(path, TrainedOn.of(experiment.dataset).to_json())
            workdir.create(path, config, experiment.student_widths)

        processes.on_first_unshared(claim)
        epochs = len(experiment.methods) * len(config.seeds) * config.epochs
        return _train_all(Stages(experiment, path, stack, epochs))


def _train_all(stages: Stages) -> dict[str, Any]:
    experiment, config = stages.experiment, stages.config
    stages.say(describe(experiment), *stem_changes(experiment), *configuration.shortened(config))
    finished: dict[str, list[tuple[Run, TrainState]]] = {}
    for method in experiment.methods:
        runner = experiment.runner(method, stages.feed)
        finished[method] = [
            stages.run(method, runner, config, experiment, seed) for seed in config.seeds
        ]
    # The test set is used only now, when nothing is left to train.
    measured = [
        measure(method, run, last) for method, group in finished.items() for run, last in group
    ]
    summary = results.summarize(experiment, measured)
    stages.write_results(
        summary, {method: [run for run, _ in group] for method, group in finished.items()}
    )
    return summary


def stem_changes(experiment: Experiment) -> list[str]:
    """Returns a line for each structure from a file whose stem got the first student's width."""
    lines, architecture = [], experiment.architecture
    shape = experiment.dataset.image_shape
    files = experiment.config.student_widths
    for file, taken in zip(files, experiment.student_widths if files else (), strict=True):
        found = read_widths(file, architecture)
        if found != taken:
            groups = ", ".join(
                f"{name} from {found[name]} to {taken[name]} channels"
                for name in taken
                if found[name] != taken[name]
            )
            before, after = (costs.count(architecture, vector, shape) for vector in (found, taken))
            lines.append(
                f"{file}: all students share the first one's stem: here {groups}, which makes "
                f"{after.params:,} parameters and {after.macs:,} MACs, not {before.params:,} and "
                f"{before.macs:,}"
            )
    return lines


def describe(experiment: Experiment) -> str:
    """Returns one paragraph on what is about to be trained, and on which data."""
    config = experiment.config
    stem = ", ".join(
        f"{experiment.student_widths[0][group]} channels of {group}"
        for group in experiment.architecture.shared
    )
    shared = f"; the ensemble shares {stem}" if config.method != "independent" else ""
    return (
        f"{experiment.named}, {announcing.students(experiment)} on "
        f"{announcing.data(experiment)}{shared}\n"
        f"{' and '.join(experiment.methods)}, {announcing.seeds(experiment)}, "
        f"{announcing.epochs(config.epochs)}, batch {config.batch_size}, {config.compute.dtype}, "
        f"on {announcing.devices(experiment)}"
    )

"""The whole experiment: every method and seed in turn, then the test set, once."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import ml_collections

import kdjax
from kdjax import config as configuration
from kdjax.train.devices import processes
from kdjax.train.program.state import TrainState
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.interrupt import Interrupts
from kdjax.train.run.metrics import MetricsWriter
from kdjax.train.run.progress import ProgressReport
from kdjax.train.run.run import Run
from kdjax.train.tasks import results
from kdjax.train.tasks.experiment import Experiment, resolve
from kdjax.train.tasks.trained_on import TrainedOn


def train(config: ml_collections.ConfigDict, path: str | Path) -> dict[str, Any]:
    """Trains what ``config`` says in the directory ``path``, continuing what is already there.

    Args:
      config: every field as in :data:`kdjax.config.FIELDS`.
      path: the workdir. Missing or empty: a new experiment. One of the same configuration: it is
        continued, or read if it is finished; of the same but for added seeds: they are trained
        too. Anything else is refused and left as it is.

    Returns:
      The content of ``results.json``.

    Raises:
      kdjax.config.ConfigError, kdjax.data.DataError, kdjax.train.run.workdir.WorkdirError: for bad
        input, before anything is written.
      kdjax.train.run.interrupt.Interrupted: after SIGINT or SIGTERM; all is saved.
      kdjax.train.program.non_finite.NonFiniteError: if a loss, gradient or statistic is not finite.
    """
    path = Path(path)
    configuration.validate(config)
    experiment = resolve_together(config, path)
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(workdir.locked(path))
            workdir.check(path, config)
            workdir.check_widths(path, experiment.student_widths)
            workdir.check_data(path, TrainedOn.of(experiment.dataset).to_json())
            workdir.create(path, config, experiment.student_widths)

        processes.on_first_unshared(claim)
        return _train_all(experiment, path)


def resolve_together(config: ml_collections.ConfigDict, path: Path) -> Experiment:
    """The experiment of a validated configuration, the same in all processes.

    Raises:
      kdjax.train.devices.processes.ProcessError: if another process failed, or has other values.
    """
    processes.agree(
        {
            "the version of kdjax": kdjax.__version__,
            "the version of jax": jax.__version__,
            **{f"config.{name}": value for name, value in configuration.flatten(config)},
        }
    )
    processes.on_first_unshared(lambda: workdir.check(path, config))
    experiment = processes.together(lambda: resolve(config))
    if processes.count() > 1:
        processes.agree(
            {
                "the data (its fingerprint)": experiment.dataset.fingerprint(),
                "the execution": dataclasses.asdict(experiment.execution),
                "the widths": [dict(vector) for vector in experiment.student_widths],
            }
        )
    return experiment


def _train_all(experiment: Experiment, path: Path) -> dict[str, Any]:
    config = experiment.config
    feed = experiment.feed()
    count = len(experiment.methods) * len(config.seeds)
    elsewhere = not processes.is_first()
    images = count * config.epochs * feed.sizes["train"]
    progress = ProgressReport(images, bar=config.log.progress, silent=elsewhere)
    progress.say("\n".join([describe(experiment), *configuration.shortened(config)]))
    writer = MetricsWriter(path, tensorboard=config.log.tensorboard, elsewhere=elsewhere)
    finished: list[tuple[str, Run, TrainState]] = []
    with contextlib.ExitStack() as stack, Interrupts() as interrupts, progress:
        stack.callback(writer.close)
        for method in experiment.methods:
            runner = experiment.runner(method, feed)
            for seed in config.seeds:
                name = run_name(method, seed)
                checkpoints = Checkpoints(
                    path / "checkpoints" / name, config.checkpoint.keep, elsewhere=elsewhere
                )
                stack.callback(checkpoints.close)
                run = Run(
                    name=name,
                    seed=seed,
                    runner=runner,
                    config=config,
                    checkpoints=checkpoints,
                    record={**experiment.record, "method": method, "seed": seed},
                    writer=writer,
                    progress=progress,
                    interrupts=interrupts,
                )
                finished.append((method, run, run.finish()))
        # Only now, with nothing left to train, is the test set looked at.
        measured = [measure(method, run, last) for method, run, last in finished]
    summary = results.summarize(experiment, measured)
    if raised := [line for _, run, _ in finished for line in run.raised]:
        summary["raised"] = raised
    # A run that was already finished was not timed again: its rate stays as it was measured.
    earlier = workdir.read_json(path / "results.json").get("throughput", {})
    summary["throughput"] = earlier | summary["throughput"]
    processes.on_first_unshared(lambda: workdir.write_json(path / "results.json", summary))
    return summary


def measure(method: str, run: Run, last: TrainState) -> results.Measured:
    """Evaluates a finished run, last state and best checkpoint, on validation and test.

    Args:
      method: the name of the method or stage, such as ``ensemble``; it is stored with the scores.
      run: the run, for its runner, seed and checkpoints.
      last: its state after the last step.
    """
    states = {"last": last}
    if (best := run.best_state(last)) is not None:
        states["best"] = best
    scores: dict[str, dict[str, Any]] = {}
    for kind, state in states.items():
        variables = run.runner.place_variables(state.variables)
        scores[kind] = {"step": int(state.step)} | {
            split: run.runner.evaluate(variables, split)
            for split in ("validation", "test")
            if run.runner.feed.sizes[split]
        }
    return results.Measured(method, run.seed, scores, run.images_per_second)


def run_name(method: str, seed: int) -> str:
    """The name of a run in checkpoints, metrics and events."""
    return f"{method}-seed{seed}"


def describe(experiment: Experiment) -> str:
    """One paragraph: what is about to be trained on what."""
    config, dataset = experiment.config, experiment.dataset
    height, width, channels = dataset.image_shape
    sizes = ", ".join(f"{size:,} {split}" for split, size in dataset.sizes.items())
    devices = experiment.parallel.devices
    stem = ", ".join(
        f"{experiment.student_widths[0][group]} channels of {group}"
        for group in experiment.architecture.shared
    )
    shared = f"; the ensemble shares {stem}" if config.method != "independent" else ""
    return (
        f"{experiment.architecture.name} x {len(experiment.student_widths)} students on "
        f"{dataset.name}: {sizes} images of {height} x {width} x {channels}, "
        f"{dataset.num_classes} classes{shared}\n"
        f"{' and '.join(experiment.methods)}, seeds {', '.join(map(str, config.seeds))}, "
        f"{config.epochs} epochs, batch {config.batch_size}, {config.compute.dtype}, on "
        f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}"
        + (f" of {processes.count()} processes" if processes.count() > 1 else "")
    )

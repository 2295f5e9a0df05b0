"""Loads the teacher of a search from another workdir: the same network at full width."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from kdjax.config import ConfigError
from kdjax.train.run import workdir
from kdjax.train.tasks import stored, trained_on
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.stages import run_name
from kdjax.train.tasks.teacher_checks import check_held_out

# If a workdir has runs of several stages, the first stage in this order is taken, and of its runs
# that of the first seed.
_RUNS = ("teacher", "independent", "ensemble")


class GivenTeacher(NamedTuple):
    """A full network that was trained before the search.

    Attributes:
      variables: its ``params`` and ``batch_stats``, on the host.
      remark: what the user should know about it; or empty.
    """

    variables: dict[str, Any]
    remark: str


def load_teacher(config: ml_collections.ConfigDict, experiment: Experiment) -> GivenTeacher:
    """The full network that ``config.teacher`` names.

    Args:
      config: the section ``config.teacher``. Its ``workdir`` is one of `kdjax search` or
        `kdjax train`, whose first student is taken; ``run`` is one of its runs, and ``checkpoint``
        is ``last`` or ``best``.
      experiment: the experiment; the teacher must have its architecture, at full widths.

    Raises:
      ConfigError: if there is no such run, it is of another network or of other classes, or it may
        have been trained on what is held out here.
      kdjax.train.run.workdir.WorkdirError: if its ``data.json`` is missing or damaged.
    """
    path = Path(os.path.expanduser(config.workdir))
    try:
        stored_config = workdir.read_config(path)
    except workdir.WorkdirError as error:
        raise ConfigError(f"config.teacher.workdir is {config.workdir!r}: {error}") from None
    run, seed = _find_run(path, config.run, stored_config.seeds)
    found = stored.restore(path, run, config.checkpoint)
    if found is None:
        raise ConfigError(
            f"config.teacher.checkpoint is {config.checkpoint!r}: {run} in {path} has none yet"
        )
    name = f"the teacher {run} in {path}"
    _check(found, experiment, name)
    fingerprint = trained_on.read(path).fingerprint
    check_held_out(found.config["data"], fingerprint, experiment, name)
    finished = stored.ended(path, seed, found.step)
    remark = "" if finished else stored.unfinished(name, found.step)
    return GivenTeacher(found.variables_of(1), remark)


def _find_run(path: Path, wanted: str, seeds: Sequence[int]) -> tuple[str, int]:
    """Returns the name and the seed of the teacher's run."""
    folder = path / "checkpoints"
    runs = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if wanted and wanted not in runs:
        raise ConfigError(
            f"config.teacher.run is {wanted!r}: the runs in {path} are {', '.join(runs) or 'none'}"
        )
    for stage, seed in itertools.product(_RUNS, seeds):
        run = run_name(stage, seed)
        if run == wanted or (not wanted and run in runs):
            return run, seed
    if wanted:
        raise ConfigError(
            f"config.teacher.run is {wanted!r}: a teacher is a run of {', '.join(_RUNS[:-1])} or "
            f"{_RUNS[-1]}; the runs in {path} are {', '.join(runs)}"
        )
    raise ConfigError(f"config.teacher.workdir is {str(path)!r}: it holds no trained full network")


def _check(found: stored.Checkpoint, experiment: Experiment, name: str) -> None:
    architecture = experiment.architecture
    for field, own, expected in (
        ("network", found.network, architecture.name),
        ("number of classes", found.architecture.num_classes, architecture.num_classes),
        ("widths", dict(found.widths[0]), dict(architecture.widths)),
        ("image shape", found.image_shape, tuple(experiment.dataset.image_shape)),
    ):
        if own != expected:
            raise ConfigError(f"{name} does not fit: its {field} is {own}, expected {expected}")
    if found.architecture.name != found.network:
        raise ConfigError(
            f"{name} does not fit: {found.network} has changed since it was trained, or is another "
            f"file; the file it was trained with is kept as {found.architecture.name}"
        )

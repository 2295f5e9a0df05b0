"""A teacher taken from another workdir, checked against the experiment that wants it."""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import ml_collections
import numpy as np

from kdjax import atomic, models
from kdjax.config import ConfigError
from kdjax.train.run import network_files, workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.tasks.experiment import Experiment

# Where a workdir has several runs, the first of these is taken.
_RUNS = ("teacher", "independent", "ensemble")
# Fields that decide which examples are held out.
_SPLIT_FIELDS = ("name", "validation", "test", "split_seed")


def load_teacher(config: ml_collections.ConfigDict, experiment: Experiment) -> dict[str, Any]:
    """The variables of the full network that ``config.teacher`` names, on the host.

    Args:
      config: its ``workdir`` is one of `kdjax search` or `kdjax train`, whose first student is
        taken; ``run`` one of its runs, and ``checkpoint`` ``last`` or ``best``.
      experiment: whose architecture, at full widths, the teacher must have.

    Raises:
      ConfigError: if there is no such run, or it is another network or has other classes.
    """
    path = Path(config.workdir)
    try:
        workdir.read_config(path)
    except workdir.WorkdirError as error:
        raise ConfigError(f"config.teacher.workdir is {config.workdir!r}: {error}") from None
    name = _find_run(path, config.run)
    with contextlib.closing(
        Checkpoints(path / "checkpoints" / name, read_only=True)
    ) as checkpoints:
        if checkpoints.latest_step(config.checkpoint) is None:
            raise ConfigError(
                f"config.teacher.checkpoint is {config.checkpoint!r}: {name} in {path} has none yet"
            )
        record = checkpoints.record(config.checkpoint)
        _check(record, experiment, f"the teacher {name} in {path}")
        if (trained := network_files.stored(path, record["network"])) != record["network"]:
            raise ConfigError(
                f"the teacher {name} in {path} does not fit: {record['network']} has changed since "
                f"it was trained, or is another file; it was {trained}"
            )
        variables = checkpoints.variables(config.checkpoint)
    return models.extract_student(variables, 1)


def check_split(config: ml_collections.ConfigDict, experiment: Experiment, name: str) -> str:
    """Checks that a teacher was not trained on what an experiment holds out.

    Args:
      config: that the teacher was trained with.
      experiment: whose students it is to teach.
      name: of the teacher, for the error.

    Returns:
      A remark where this cannot be known, since it was trained on other data; else empty.

    Raises:
      ConfigError: if it was trained on the same data divided in another way.
    """
    theirs, own = config.data, experiment.config.data
    if theirs.name != own.name:
        return (
            f"{name} was trained on {theirs.name}, not on {own.name}: that it has not seen the "
            "test images is for you to know"
        )
    _check_held_out(theirs, own, name)
    return ""


def _check_held_out(theirs: Mapping[str, Any], own: Mapping[str, Any], name: str) -> None:
    fields = [field for field in _SPLIT_FIELDS if theirs[field] != own[field]]
    # Corrupt images leave a set in memory before it is divided, and a stream after.
    if theirs["skip_corrupt"] and own["skip_corrupt"] and theirs["memory"] != own["memory"]:
        fields.append("memory")
    if fields:
        field = fields[0]
        raise ConfigError(
            f"{name} does not fit: its config.data.{field} is {theirs[field]}, expected "
            f"{own[field]}: it may have been trained on what is held out here"
        )


def digest(variables: Mapping[str, Any]) -> str:
    """A name for the exact numbers in a tree of arrays."""
    total = hashlib.sha256()
    for path, leaf in sorted(flax.traverse_util.flatten_dict(variables, sep="/").items()):
        total.update(path.encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()[:16]


def check_same_teacher(path: Path, found: str, *, task: str = "a search") -> None:
    """Notes which teacher a workdir began with; it goes on with the same one.

    Args:
      path: the workdir, locked.
      found: the teacher's :func:`digest`.
      task: what the workdir holds, in words.

    Raises:
      WorkdirError: if the one that was given has changed since.
    """
    marker = path / "teacher.json"
    content = {"digest": found}
    stored = atomic.read_json(marker)
    if stored and stored != content:
        raise workdir.WorkdirError(
            f"workdir {path} holds {task} with another teacher: config.teacher names one whose "
            "weights have changed since; choose another --workdir"
        )
    atomic.write_json(marker, content)


def _find_run(path: Path, wanted: str) -> str:
    folder = path / "checkpoints"
    runs = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if wanted and wanted not in runs:
        raise ConfigError(
            f"config.teacher.run is {wanted!r}: the runs in {path} are {', '.join(runs) or 'none'}"
        )
    for stage in _RUNS:
        for run in [wanted] if wanted else runs:
            if run.startswith(f"{stage}-seed"):
                return run
    if wanted:
        raise ConfigError(
            f"config.teacher.run is {wanted!r}: a teacher is a run of {', '.join(_RUNS[:-1])} or "
            f"{_RUNS[-1]}; the runs in {path} are {', '.join(runs)}"
        )
    raise ConfigError(f"config.teacher.workdir is {str(path)!r}: it holds no trained full network")


def _check(record: Mapping[str, Any], experiment: Experiment, name: str) -> None:
    architecture = experiment.architecture
    shape = experiment.dataset.image_shape
    for field, found, expected in (
        ("network", record["network"], architecture.name),
        ("number of classes", record["num_classes"], architecture.num_classes),
        ("widths", record["student_widths"][0], dict(architecture.widths)),
        ("image shape", tuple(record["image_shape"]), tuple(shape)),
    ):
        if found != expected:
            raise ConfigError(f"{name} does not fit: its {field} is {found}, expected {expected}")
    _check_held_out(record["config"]["data"], experiment.config.data, name)

"""The networks that a workdir holds, by name and number, with their variables."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections

from kdjax import atomic, models
from kdjax import config as configuration
from kdjax.train.run import network_files, workdir
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints
from kdjax.train.tasks import trained_on
from kdjax.train.tasks.stages import run_name
from kdjax.train.tasks.structure import CANDIDATES
from kdjax.train.tasks.students import STUDENTS
from kdjax.train.tasks.trained_on import TrainedOn
from kdjax.widths import WidthVector

# Method -> the word in a student's name that says how it was trained.
_ROLES = {"ensemble": "distilled", "independent": "alone"}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network that is, or will be, in the checkpoints of a workdir.

    Attributes:
      name: such as ``student 3, distilled``, ``compact, alone`` or ``teacher``.
      stage: which runs train it: ``ensemble``, ``independent``, ``distil`` or ``teacher``.
      place: its number in such a run, from 1.
      seeds: the seeds of these runs.
    """

    name: str
    stage: str
    place: int
    seeds: tuple[int, ...]

    @property
    def short(self) -> str:
        """The name without the part that says how the network was trained."""
        return self.name.partition(",")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """The networks of one run at one step, on the host.

    Attributes:
      run: the name of the run.
      step: training steps taken.
      config: the configuration of the run.
      network: the name of the network when it was trained.
      architecture: the architecture of all networks of the run.
      image_shape: (height, width, channels) of their images.
      widths: the widths of each network.
      variables: the variables of all networks together.
    """

    run: str
    step: int
    config: dict[str, Any]
    network: str
    architecture: models.Architecture
    image_shape: tuple[int, ...]
    widths: tuple[WidthVector, ...]
    variables: dict[str, Any]

    def module(self, place: int) -> models.Network:
        """Returns the deployable network with this number."""
        dtype = jnp.dtype(self.config["compute"]["dtype"])
        return self.architecture.build(self.widths[place - 1], dtype=dtype)

    def variables_of(self, place: int) -> dict[str, Any]:
        """Returns the variables for :meth:`module`."""
        return models.extract_student(self.variables, place)


class Found(NamedTuple):
    """One network of one run.

    Attributes:
      name: the name of the network.
      place: its number in the checkpoint, from 1.
      seed: the seed of its run.
      checkpoint: the checkpoint of that run.
      trained_on: the data that it was trained on.
      finished: whether training with its seed has ended, or the network was imported.
    """

    name: str
    place: int
    seed: int
    checkpoint: Checkpoint
    trained_on: TrainedOn
    finished: bool


class NotFound(ValueError):
    """A workdir has no such network; ``field`` is the argument of :func:`find` that is wrong."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


def find(path: Path, student: int | str, seed: int | None, checkpoint: str) -> Found:
    """Returns a network of a workdir, on the host.

    Args:
      path: the workdir.
      student: its number, from 1, or its name; if several fit, the first of :func:`select`.
      seed: the seed of its run; None: the first seed.
      checkpoint: ``last`` or ``best``.

    Raises:
      NotFound: if there is no such student or seed.
      kdjax.train.run.workdir.WorkdirError: if the directory holds no run, or is damaged.
      kdjax.train.run.checkpoint.CheckpointError: if there is no such checkpoint, or it is damaged.
    """
    config = workdir.read_config(path)
    text = str(student).strip()
    if text.isdecimal() and int(text) == 0:
        raise NotFound("student", f"student is {student!r}: the first is 1")
    try:
        chosen = select(path, config, student)[0]
    except ValueError as error:
        raise NotFound("student", str(error)) from None
    taken = chosen.seeds[0] if seed is None else seed
    if taken not in chosen.seeds:
        known = ", ".join(map(str, chosen.seeds))
        raise NotFound("seed", f"seed is {seed}: {chosen.name} was trained with {known}")
    data = trained_on.read(path)
    run = run_name(chosen.stage, taken)
    found = restore(path, run, checkpoint, classes=len(data.class_names))
    if found is None:
        own = dataclasses.replace(chosen, seeds=(taken,))
        raise CheckpointError(missing_checkpoint(path, config, own, checkpoint))
    finished = ended(path, taken, found.step)
    return Found(chosen.name, chosen.place, taken, found, data, finished)


def names(path: Path, config: ml_collections.ConfigDict) -> tuple[Trained, ...]:
    """Returns the networks of a workdir by number, distilled ones before the same ones alone.

    Args:
      path: the workdir.
      config: its configuration. A search has the networks that it compares, a distillation its
        students. Both also have the teacher, unless it came from elsewhere.
    """
    seeds = tuple(config.seeds)
    if configuration.task_of(config) == "search":
        compared = tuple(
            Trained(candidate.name, STUDENTS, place, seeds)
            for place, candidate in enumerate(CANDIDATES, start=1)
        )
        own = () if config.teacher.workdir else (Trained("teacher", "teacher", 1, seeds[:1]),)
        return compared + own
    students = len(workdir.read_student_widths(path))
    if configuration.task_of(config) == "distill":
        roles = ("distilled", "alone") if config.baseline else ("distilled",)
        beside = tuple(
            Trained(f"student {number}, {role}", STUDENTS, place * students + number, seeds)
            for place, role in enumerate(roles)
            for number in range(1, students + 1)
        )
        # The workdir notes which teacher it has only if the teacher came from elsewhere.
        given = (path / "teacher.json").exists()
        own = () if given else (Trained("teacher", "teacher", 1, seeds[:1]),)
        return beside + own
    stages = tuple(_ROLES) if config.method == "both" else (config.method,)
    return tuple(
        Trained(f"student {place}, {_ROLES[stage]}", stage, place, seeds)
        for stage in stages
        for place in range(1, students + 1)
    )


def ended(path: Path, seed: int, step: int) -> bool:
    """Whether training with a seed has ended in a workdir.

    Args:
      path: the workdir. Its results are of the seeds that have ended; others may have been added.
      seed: the seed.
      step: the training steps of a run with this seed; 0 if it was imported.
    """
    return step == 0 or seed in atomic.read_json(path / "results.json").get("seeds", ())


def unfinished(name: str, step: int) -> str:
    """Returns a remark on a network of a workdir whose training has not ended.

    Args:
      name: the name of the network.
      step: the training steps that it has had.
    """
    return f"{name} is from a workdir whose training has not ended; it has had {step} steps"


def select(
    path: Path, config: ml_collections.ConfigDict, student: int | str
) -> tuple[Trained, ...]:
    """Returns the networks of a workdir that have the given number or name.

    Args:
      path: the workdir.
      config: its configuration.
      student: a number; a name, in full or up to its comma; or 0 for all.

    Returns:
      All networks that fit. A name up to its comma fits one for each way it was trained, the
      distilled one first; so does a number in a workdir of `kdjax train`. Otherwise numbers count
      all networks of a run, in the order of :func:`names`.

    Raises:
      ValueError: if no network fits.
    """
    known = names(path, config)
    text = str(student).strip()
    number = int(text) if text.isdecimal() else -1
    if number == 0:
        return tuple(known)
    chosen = tuple(
        network
        for network in known
        if (number == network.place and network.stage != "teacher")
        or text in (network.name, network.short)
    )
    if not chosen:
        last = max(network.place for network in known)
        shorts = ", ".join(dict.fromkeys(repr(network.short) for network in known))
        if text == "teacher" and "teacher" in config:
            given = config.teacher.workdir
            places = given if isinstance(given, str) else " and ".join(given)
            where = f"is in {places}" if places else "was given by a program"
            raise ValueError(f"student is 'teacher': the teacher of this workdir {where}")
        raise ValueError(
            f"student is {student!r}: this workdir has 1 to {last}, by name {shorts}; in full "
            f"{', '.join(repr(network.name) for network in known)}"
        )
    return chosen


def missing_checkpoint(
    path: Path, config: ml_collections.ConfigDict, network: Trained, checkpoint: str
) -> str:
    """Returns the error message for a network of which a workdir has no checkpoint.

    Args:
      path: the workdir.
      config: its configuration.
      network: one of its networks.
      checkpoint: the one that was looked for, ``last`` or ``best``.
    """
    name = network.name + (f" with seed {network.seeds[0]}" if len(network.seeds) == 1 else "")
    if checkpoint == "best" and not config.data.validation:
        return (
            f"{path} has no 'best' checkpoint of {name}: it is kept where there are validation "
            "images, and config.data.validation is 0"
        )
    return f"{path} has no {checkpoint!r} checkpoint of {name} yet"


def restore(
    path: Path, run: str, checkpoint: str, *, classes: int | None = None
) -> Checkpoint | None:
    """Returns the networks in a run's newest checkpoint; None if it has none yet.

    Args:
      path: the workdir.
      run: the run's name, as :func:`kdjax.train.tasks.stages.run_name` returns it.
      checkpoint: ``last`` or ``best``.
      classes: how many classes the networks must have; None: any number.

    Raises:
      kdjax.train.run.checkpoint.CheckpointError: if the checkpoint is damaged, or its networks have
        another number of classes.
    """
    folder = path / "checkpoints" / run
    found = _read(folder, checkpoint) if folder.is_dir() else None
    if found is None:
        return None
    step, record, variables = found
    if classes not in (None, record["num_classes"]):
        raise CheckpointError(
            f"{folder} is a checkpoint of another network: its num_classes is "
            f"{record['num_classes']}, expected {classes}"
        )
    config = record["config"]
    return Checkpoint(
        run=run,
        step=step,
        config=config,
        network=record["network"],
        architecture=models.create(
            network_files.loadable(path, record["network"]),
            record["num_classes"],
            width=config["network_width"],
        ),
        image_shape=tuple(record["image_shape"]),
        widths=tuple(WidthVector(vector) for vector in record["student_widths"]),
        variables=variables,
    )


def _read(
    folder: Path, checkpoint: str, attempts: int = 3
) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """Returns (step, record, variables) of a run's newest checkpoint; None if it has none yet.

    A run that is still training may replace its checkpoint meanwhile. Then the new one is read.
    """
    with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
        step = checkpoints.latest_step(checkpoint)
        if step is None:
            return None
        try:
            return step, *checkpoints.read(checkpoint)
        except CheckpointError:
            if attempts == 1 or (folder / checkpoint / str(step)).exists():
                raise
    return _read(folder, checkpoint, attempts - 1)

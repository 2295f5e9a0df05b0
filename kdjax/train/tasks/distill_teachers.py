"""Teachers of any family for `kdjax distill`: where they come from, and whether they fit."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import config as configuration
from kdjax import models
from kdjax.config import ConfigError
from kdjax.models.initialize import variable_shapes
from kdjax.train.program.fixed_teachers import FixedTeachers, TeacherNetwork
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import CheckpointError
from kdjax.train.tasks import stored
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.network_checks import check_maps
from kdjax.train.tasks.teacher_checks import check_split
from kdjax.widths import WidthVector


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network of any family.

    Attributes:
      name: the name in tables and errors.
      architecture: its architecture, with as many classes as the students have.
      variables: ``params`` and ``batch_stats`` of ``architecture.build(widths)``.
      widths: the widths of the network; empty: the full widths.
      mean, std: per channel, of pixel values in [0, 1], with which the teacher's images were
        normalised; empty: those of the students' images.
      class_names: in the order of its logits; empty: those of the students.
      image_shape: (height, width, channels) of its images; empty: that of the students' images.
      seed: the seed of its run, if known.
      remark: what the user should know about this teacher.
    """

    name: str
    architecture: models.Architecture
    variables: Mapping[str, Any]
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    seed: int | None = None
    remark: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the teacher's output for an image, as a tree of arrays."""
        facts = (self.architecture.name, dict(self.vector), self.mean, self.std)
        return {**self.variables, "facts": np.frombuffer(repr(facts).encode(), np.uint8)}

    @property
    def vector(self) -> WidthVector:
        """The widths of the network."""
        return WidthVector(self.widths) if self.widths else self.architecture.widths


def load_teachers(experiment: Experiment) -> tuple[Teacher, ...]:
    """The networks that ``config.teacher`` of `kdjax distill` names, on the host.

    Raises:
      ConfigError: if there is no such network, or it does not fit the experiment.
    """
    config = experiment.config.teacher
    count = len(config.workdir)
    students = tuple(config.student) or (1,) * count
    seeds: tuple[int | None, ...] = tuple(config.seed) or (None,) * count
    teachers = []
    for number, (place, student, seed) in enumerate(
        zip(config.workdir, students, seeds, strict=True)
    ):
        try:
            found = stored.find(Path(os.path.expanduser(place)), student, seed, config.checkpoint)
        except stored.NotFound as error:
            raise ConfigError(
                f"config.teacher.{error.field}[{number}]: {error} (workdir {place})"
            ) from None
        except (workdir.WorkdirError, CheckpointError) as error:
            raise ConfigError(f"config.teacher.workdir[{number}] is {place!r}: {error}") from None
        teacher = _teacher(found, f"{found.name} of {place}", experiment)
        check_fit(teacher, experiment)
        teachers.append(teacher)
    return tuple(teachers)


def _teacher(found: stored.Found, name: str, experiment: Experiment) -> Teacher:
    networks, data = found.checkpoint, found.trained_on
    return Teacher(
        name=name,
        architecture=networks.architecture,
        variables=networks.variables_of(found.place),
        widths=networks.widths[found.place - 1],
        mean=data.mean,
        std=data.std,
        class_names=data.class_names,
        image_shape=data.image_shape,
        seed=found.seed,
        remark=_remark(found, experiment, f"the teacher {name}"),
    )


def _remark(found: stored.Found, experiment: Experiment, name: str) -> str:
    checkpoint, fingerprint = found.checkpoint, found.trained_on.fingerprint
    split = check_split(checkpoint.config["data"], fingerprint, experiment, name)
    left = "" if found.finished else stored.unfinished(name, checkpoint.step)
    return "; ".join(filter(None, (split, left)))


def check_fit(teacher: Teacher, experiment: Experiment) -> None:
    """Checks that a teacher takes the images of an experiment and knows its classes.

    Raises:
      ConfigError: if it does not; the message says what does not fit.
    """
    dataset = experiment.dataset
    shape = dataset.image_shape
    names = tuple(dataset.class_names)
    for what, found, expected in (
        ("number of classes", teacher.architecture.num_classes, len(names)),
        ("image shape", tuple(teacher.image_shape) or shape, shape),
        ("number of channels in mean", len(teacher.mean) or shape[-1], shape[-1]),
        ("number of channels in std", len(teacher.std) or shape[-1], shape[-1]),
        *(
            (f"class {number}", own, name)
            for number, (own, name) in enumerate(zip(teacher.class_names, names, strict=False))
        ),
    ):
        if found != expected:
            raise ConfigError(
                f"the teacher {teacher.name} does not fit: its {what} is {found!r}, expected "
                f"{expected!r}"
            )
    check_maps(experiment.config, teacher.architecture, f"the teacher {teacher.name}")
    network = teacher.architecture.build(teacher.vector)
    shapes: Any = dict(variable_shapes(network, shape))
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    given: Any = flax.traverse_util.flatten_dict(dict(teacher.variables), sep="/")
    for path in sorted(wanted.keys() | given.keys()):
        own, expected = (np.shape(tree[path]) if path in tree else None for tree in (given, wanted))
        if own != expected:
            raise ConfigError(
                f"the teacher {teacher.name} does not fit: the shape of its {path} is {own}, "
                f"expected {expected} for {teacher.architecture.name}"
            )
        if not np.isfinite(given[path]).all():
            raise ConfigError(
                f"the teacher {teacher.name} does not fit: its {path} has numbers that are not "
                "finite"
            )


def fixed(teachers: Sequence[Teacher], experiment: Experiment) -> FixedTeachers:
    """Returns the teachers for a training step, where images are normalised for the students."""
    mean, std = (
        np.asarray(values, np.float64)
        for values in (experiment.dataset.mean, experiment.dataset.std)
    )
    networks = []
    for teacher in teachers:
        scale: tuple[float, ...] = ()
        shift: tuple[float, ...] = ()
        own_mean = np.asarray(teacher.mean or mean, np.float64)
        own_std = np.asarray(teacher.std or std, np.float64)
        if not (np.array_equal(own_mean, mean) and np.array_equal(own_std, std)):
            scale, shift = tuple(std / own_std), tuple((mean - own_mean) / own_std)
        networks.append(TeacherNetwork(teacher.architecture, teacher.vector, scale, shift))
    return FixedTeachers(tuple(networks), jnp.dtype(experiment.config.compute.dtype))


def variables_of(teachers: Sequence[Teacher]) -> Any:
    """Returns the variables of a single teacher, or a tuple with the variables of each teacher."""
    trees = tuple(teacher.variables for teacher in teachers)
    return trees[0] if len(trees) == 1 else trees


def check_given(teachers: Sequence[Teacher], config: ml_collections.ConfigDict) -> None:
    """Checks teachers that a program passes in against the configuration.

    Args:
      teachers: the teachers that the program passes in.
      config: a configuration of `kdjax distill`.

    Raises:
      ConfigError: if the configuration names other teachers, or a term needs a single teacher.
    """
    if config.teacher.workdir:
        raise ConfigError(
            f"config.teacher.workdir is {config.teacher.workdir}, but teachers are given as well: "
            "give only one of them"
        )
    readers = configuration.terms_of_maps(config)
    if readers and len(teachers) > 1:
        raise ConfigError(
            f"config.weights.{readers[0]} reads the maps of one teacher, but {len(teachers)} are "
            "given: several teachers can teach by logits only"
        )

"""Resolves and checks an experiment before it starts: data, architecture, students, devices."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

import kdjax
from kdjax import config as configuration
from kdjax import data, models, widths
from kdjax.config import ConfigError
from kdjax.data.batches import Batches, DeviceData, device_data
from kdjax.data.dataset import batches_of
from kdjax.models.ensemble import student_vectors
from kdjax.models.execution import Execution
from kdjax.train.devices import processes
from kdjax.train.devices.parallel import Parallel, choose
from kdjax.train.program import methods
from kdjax.train.program.compiled import Runner
from kdjax.train.program.execution_choice import execution_of
from kdjax.train.program.feed import Feed, Resident, Streaming
from kdjax.train.program.methods import Method
from kdjax.train.run import network_files, own_terms, workdir
from kdjax.train.tasks.data_checks import check_data, check_image_size
from kdjax.train.tasks.network_checks import check_maps, check_own
from kdjax.widths import WidthVector


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A resolved configuration: the data, networks and devices that it names.

    Attributes:
      config: the validated configuration.
      dataset: the dataset, read or ready to be streamed.
      architecture: the network's architecture, with all classes of the dataset.
      student_widths: the pivot's first; students of an ensemble have its stem. In a search: the
        network to thin.
      parallel: the devices.
    """

    config: ml_collections.ConfigDict
    dataset: data.Dataset | data.Streamed
    architecture: models.Architecture
    student_widths: tuple[WidthVector, ...]
    parallel: Parallel

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods to train."""
        both = ("ensemble", "independent")
        return both if self.config.method == "both" else (self.config.method,)

    @functools.cached_property
    def execution(self) -> Execution:
        """How the students run."""
        image_shape = self.dataset.image_shape
        return execution_of(self.config, self.architecture, self.parallel, image_shape)

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint of this experiment stores, as JSON."""
        return {
            "network": self.architecture.name,
            "num_classes": self.architecture.num_classes,
            "student_widths": [dict(vector) for vector in self.student_widths],
            "image_shape": list(self.dataset.image_shape),
            "devices": len(self.parallel.devices),
            "config": self.config.to_dict(),
        }

    def feed(self) -> Feed:
        """Returns the feed of batches; a dataset that is held in memory is put on the devices."""
        if not isinstance(self.dataset, data.Streamed):
            return self.resident(*device_data(self.dataset))
        config = self.config
        return Streaming(
            self.dataset,
            self.parallel,
            batch_size=config.batch_size,
            evaluation_batch_size=self._evaluation_batch_size,
            flip=config.data.flip,
            resized_crop=config.data.resized_crop,
            crop_padding=config.data.crop_padding,
            workers=config.data.workers,
            threads=config.data.threads,
        )

    def resident(self, host_data: DeviceData, bounds: Mapping[str, tuple[int, int]]) -> Resident:
        """Returns a feed that reads from the devices' memory.

        Args:
          host_data: all splits; they are put on the devices.
          bounds: where each split starts and stops in ``host_data``.
        """
        config, devices = self.config, len(self.parallel.devices)
        batches = Batches(
            train_size=self.dataset.sizes["train"],
            batch_size=config.batch_size,
            devices=devices,
            image_shape=self.dataset.image_shape,
            mean=self.dataset.mean,
            std=self.dataset.std,
            crop_padding=config.data.crop_padding,
            flip=config.data.flip,
        )
        evaluation = dataclasses.replace(batches, batch_size=self._evaluation_batch_size)
        return Resident(host_data, bounds, batches, evaluation, self.parallel)

    @property
    def named(self) -> str:
        """The network's name, with its width multiplier if that is not 1."""
        return widths.scaled(self.architecture.name, self.config.network_width)

    @property
    def _evaluation_batch_size(self) -> int:
        """The batch size of evaluations, a multiple of the number of devices."""
        devices, largest = len(self.parallel.devices), max(self.dataset.sizes.values())
        return -(-min(self.config.evaluation.batch_size, largest) // devices) * devices

    def runner(
        self,
        method: str,
        feed: Feed,
        config: ml_collections.ConfigDict | None = None,
    ) -> Runner:
        """The compiled functions of a method.

        Args:
          method: ``ensemble`` or ``independent``.
          feed: where batches come from.
          config: a configuration in place of the experiment's; None: the experiment's.
        """
        config = self.config if config is None else config
        return Runner(self.method(method, config), config, feed, self.parallel)

    def method(self, name: str, config: ml_collections.ConfigDict | None = None) -> Method:
        """The networks of a method and their losses.

        Args:
          name: ``ensemble`` or ``independent``.
          config: as for :meth:`runner`.
        """
        return methods.make(
            name,
            self.config if config is None else config,
            self.architecture,
            self.student_widths,
            self.steps_per_epoch,
            self.parallel.axis_name,
            self.execution,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in one epoch; the last batch may be short."""
        return batches_of(self.dataset.sizes["train"], self.config.batch_size)


def resolve(
    config: ml_collections.ConfigDict,
    student_widths: Sequence[Mapping[str, int]] = (),
    *,
    parallel: Parallel | None = None,
    dataset: data.Dataset | data.Streamed | None = None,
) -> Experiment:
    """Reads the data and checks the configuration against it, the network and the devices.

    Args:
      config: a configuration that has passed :func:`kdjax.config.validate`.
      student_widths: width vectors in place of those that the configuration names.
      parallel: the devices; None: those of this machine that ``config.compute.devices`` asks for.
      dataset: a dataset in place of the one that ``config.data`` names.

    Raises:
      ConfigError: if a field does not fit the data, the network or the devices.
      kdjax.data.DataError: if the dataset is missing or wrong.
    """
    try:
        parallel = parallel or choose(config.compute.devices)
        # The number of classes is not known yet; names and widths can be checked without it.
        _students(config, _architecture(config, 2), student_widths)
        if _trains_teacher(config):
            teacher_architecture(config, 2)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    devices = len(parallel.devices)
    if config.batch_size % devices:
        raise ConfigError(
            f"config.batch_size is {config.batch_size}: it must be divisible by the {devices} "
            "devices (or choose config.compute.devices)"
        )
    if dataset is None:
        dataset = read_dataset(config)
        check_image_size(config, dataset.image_shape)
    check_data(config, dataset)
    architecture = _architecture(config, dataset.num_classes)
    try:
        execution_of(config, architecture, parallel, dataset.image_shape)
        padded = dataset.sizes["train"] % config.batch_size > 0
        for network in _own_networks(config, architecture):
            rows = config.batch_size // devices
            check_own(network, dataset.image_shape, rows=rows, padded=padded)
        check_maps(config, architecture)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    students = _students(config, architecture, student_widths)
    return Experiment(config, dataset, architecture, students, parallel)


def resolve_in_all(config: ml_collections.ConfigDict, path: Path) -> Experiment:
    """Resolves a validated configuration, and checks that all processes have the same experiment.

    Raises:
      kdjax.train.devices.processes.ProcessError: if another process failed, or has other values.
    """
    processes.check_equal(
        {
            "the version of kdjax": kdjax.__version__,
            "the version of jax": jax.__version__,
            **{f"config.{name}": value for name, value in configuration.flatten(config)},
            **{f"the file {name}": text for name, text in network_files.digests(config).items()},
            **{
                f"the source of the loss {name} (its digest)": text
                for name, text in own_terms.digests(config).items()
            },
        }
    )
    processes.on_first_unshared(lambda: workdir.check(path, config))
    experiment = processes.in_all(lambda: resolve(config))
    if processes.count() > 1:
        processes.check_equal(
            {
                "the data (its fingerprint)": experiment.dataset.fingerprint(),
                "the execution": dataclasses.asdict(experiment.execution),
                "the widths": [dict(vector) for vector in experiment.student_widths],
            }
        )
    return experiment


def stage_config(
    config: ml_collections.ConfigDict, epochs: int, constant_rate: float = 0.0
) -> ml_collections.ConfigDict:
    """The configuration of one stage of an experiment, for its run and runner.

    Args:
      config: the configuration of the experiment.
      epochs: the epochs of the stage.
      constant_rate: a learning rate that replaces the schedule; 0: the schedule stays.
    """
    stage = ml_collections.ConfigDict(config.to_dict())
    stage.epochs = epochs
    if constant_rate:
        stage.schedule.update(name="constant", learning_rate=constant_rate, warmup_epochs=0.0)
    return stage


def read_dataset(
    config: ml_collections.ConfigDict, *, min_classes: int = 2
) -> data.Dataset | data.Streamed:
    """Returns the dataset that ``config.data`` names, read or ready to be streamed.

    Args:
      config: the configuration of an experiment.
      min_classes: how many classes must have images.

    Raises:
      kdjax.data.DataError: if the dataset is missing or wrong.
    """
    read = data.stream if config.data.memory == "stream" else data.load
    options = data.SourceOptions(
        data_dir=config.data.data_dir,
        validation=config.data.validation,
        test=config.data.test,
        split_seed=config.data.split_seed,
        labels_per_class=config.data.labels_per_class,
        skip_corrupt=config.data.skip_corrupt,
        image_size=tuple(config.data.image_size),
        min_classes=min_classes,
    )
    return read(config.data.name, options)


def read_widths(path: str, architecture: models.Architecture) -> WidthVector:
    """Reads an entry of ``config.student_widths``.

    Raises:
      ConfigError: if the file cannot be read, or holds no widths of this architecture.
    """
    try:
        return widths.load(Path(os.path.expanduser(path)), architecture.widths)
    except (ValueError, OSError) as error:
        reason = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise ConfigError(f"config.student_widths: {reason}") from None


def teacher_architecture(
    config: ml_collections.ConfigDict, num_classes: int
) -> models.Architecture:
    """Returns the architecture of the teacher that `kdjax distill` trains itself.

    Raises:
      ConfigError: if there is no such network.
    """
    return _architecture(config.teacher, num_classes, "config.teacher")


def _architecture(
    section: ml_collections.ConfigDict, num_classes: int, name: str = "config"
) -> models.Architecture:
    try:
        return models.create(section.network, num_classes, width=section.network_width)
    except ValueError as error:
        raise ConfigError(f"{name}.network: {error}") from None


def _trains_teacher(config: ml_collections.ConfigDict) -> bool:
    return configuration.task_of(config) == "distill" and not config.teacher.workdir


def _own_networks(
    config: ml_collections.ConfigDict, architecture: models.Architecture
) -> list[models.Architecture]:
    """Returns the user-written networks of a configuration: the students' and the teacher's."""
    found = [architecture] if models.own.is_file(config.network) else []
    if _trains_teacher(config) and models.own.is_file(config.teacher.network):
        found.append(teacher_architecture(config, architecture.num_classes))
    return found


def _students(
    config: ml_collections.ConfigDict,
    architecture: models.Architecture,
    chosen: Sequence[Mapping[str, int]],
) -> tuple[WidthVector, ...]:
    if configuration.task_of(config) == "search":
        return (architecture.widths,)
    apart = configuration.task_of(config) == "distill" or config.method == "independent"
    if chosen:
        vectors = tuple(widths.check(vector, architecture.widths) for vector in chosen)
    elif config.student_widths:
        vectors = tuple(read_widths(path, architecture) for path in config.student_widths)
        if not apart:
            # Structures from different searches may have different stems; here all share one.
            vectors = tuple(
                widths.with_shared(vector, vectors[0], architecture.shared) for vector in vectors
            )
    else:
        vectors = student_vectors(architecture, tuple(config.student_scales))
    if apart:
        return vectors
    checked = widths.check_students(vectors, architecture.widths, shared=architecture.shared)
    if not configuration.RULES[config.ensemble.rule].pivot_learns:
        _check_order(config, checked)
    return checked


def _check_order(config: ml_collections.ConfigDict, vectors: Sequence[WidthVector]) -> None:
    field = "student_widths" if config.student_widths else "student_scales"
    channels = [sum(vector.values()) for vector in vectors]
    for number, (before, own) in enumerate(itertools.pairwise(channels), start=2):
        if own > before:
            raise ValueError(
                f"config.{field} is {config[field]}: with config.ensemble.rule "
                f"{config.ensemble.rule!r} students go from the widest to the narrowest, but "
                f"student {number} has {own} channels and student {number - 1} has {before}"
            )

"""The data of an evaluation: the training data, which may have been moved, or other data."""

import dataclasses
import os
from pathlib import Path

import ml_collections
import numpy as np
import PIL.Image

from kdjax import data
from kdjax.data import DataError, fit_image
from kdjax.train.run import workdir
from kdjax.train.run.workdir import WorkdirError
from kdjax.train.tasks import trained_on
from kdjax.train.tasks.experiment import read_dataset
from kdjax.train.tasks.trained_on import TrainedOn

AnyDataset = data.Dataset | data.Streamed


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationData:
    """A dataset in the form that trained networks take, whatever data they were trained on.

    Attributes:
      dataset: normalised as in training, with images of the same size as in training.
      class_names: the class names of the networks.
      numbers: ``[classes of dataset]``, the number that each class has in the networks.
      remarks: what the user should know about the data.
    """

    dataset: AnyDataset
    class_names: tuple[str, ...]
    numbers: np.ndarray
    remarks: tuple[str, ...] = ()


def open_data(
    path: Path, config: ml_collections.ConfigDict, *, data: str = "", other_data: str = ""
) -> EvaluationData:
    """Reads the data that a workdir's networks are to be evaluated on.

    Args:
      path: the workdir.
      config: its configuration; ``data`` is changed in place.
      data: where the data is now, as :func:`relocate` takes it; empty: where it was in training.
      other_data: data of the same classes that the networks were not trained on.

    Raises:
      ValueError: if both ``data`` and ``other_data`` are given.
      kdjax.data.DataError: if the data is missing or wrong, or has other classes.
      WorkdirError: if it should be the data of training and is not.
    """
    if data and other_data:
        raise ValueError(f"--data is {data!r} and --other_data {other_data!r}: give one of them")
    trained = trained_on.read(path)
    if other_data:
        return open_other(config, other_data, trained)
    if data:
        relocate(config, data)
    try:
        dataset = read_dataset(config)
    except DataError as error:
        if data:
            raise
        raise DataError(f"{error}. If the data lies elsewhere now, say where with --data") from None
    try:
        workdir.check_same_data(path, dataset.fingerprint())
    except WorkdirError as error:
        raise WorkdirError(
            f"{error}; to evaluate on other data, name it with --other_data"
        ) from None
    # Under another name a well-known dataset has other statistics. Those of training are used.
    dataset = dataclasses.replace(dataset, mean=trained.mean, std=trained.std)
    return EvaluationData(dataset, trained.class_names, np.arange(len(trained.class_names)))


def relocate(config: ml_collections.ConfigDict, place: str) -> None:
    """Changes ``config.data`` to read a dataset from another place.

    Args:
      config: the configuration of an experiment.
      place: a name as in ``config.data.name`` (``folder:<dir>``, ``npz:<file>``, ``tfds:<dir>``,
        ``cifar10``); or a path: an npz file, a prepared TFDS set, a directory that holds the
        experiment's TFDS set in prepared form, or a folder of images.
    """
    path = Path(os.path.expanduser(place))
    if place in data.names() or not path.exists():
        config.data.name = place
    elif path.is_file():
        config.data.name = f"npz:{place}"
    elif (path / "dataset_info.json").is_file():
        config.data.name = f"tfds:{place}"
    elif ":" not in config.data.name and (path / config.data.name).is_dir():
        config.data.data_dir = place
    else:
        config.data.name = f"folder:{place}"
    # The data of training may have been streamed.
    if data.is_array(config.data.name):
        config.data.memory = "device"


def open_other(config: ml_collections.ConfigDict, place: str, trained: TrainedOn) -> EvaluationData:
    """Reads all of some data that the networks were not trained on, prepared as in training.

    Args:
      config: the configuration of the networks; its ``data`` is changed.
      place: where the data is, as :func:`relocate` takes it.
      trained: what the networks were trained on.

    Raises:
      DataError: if the data is missing, wrong, or has other classes.
    """
    relocate(config, place)
    # All images are evaluated, even if there is only one. So nothing is held out.
    config.data.update(
        image_size=trained.image_shape[:2], validation=0.0, test=0.0, labels_per_class=0
    )
    dataset = read_dataset(config, min_classes=1)
    unknown = [name for name in dataset.class_names if name not in trained.class_names]
    if unknown:
        raise DataError(
            f"{dataset.name} has classes that the networks do not know: {_few(unknown)}; theirs "
            f"are {_few(trained.class_names)}"
        )
    dataset = dataclasses.replace(dataset, mean=trained.mean, std=trained.std)
    if isinstance(dataset, data.Dataset):
        dataset = dataclasses.replace(
            dataset,
            train=_fitted(dataset.train, trained),
            validation=_fitted(dataset.validation, trained),
            test=_fitted(dataset.test, trained),
        )
    size = sum(dataset.sizes.values())
    remark = (
        f"{dataset.name} is other data than the networks were trained on ({trained.name}): all of "
        f"its {size:,} images are evaluated"
    )
    if dataset.name == trained.name:
        remark = (
            f"{dataset.name} has the name of the data that the networks were trained on, and all "
            f"of its {size:,} images are evaluated: if it has not changed, most were trained on. "
            "Without --other_data only its test split is evaluated"
        )
    numbers = np.array([trained.class_names.index(name) for name in dataset.class_names])
    return EvaluationData(dataset, trained.class_names, numbers, (remark,))


def _fitted(split: data.Split, trained: TrainedOn) -> data.Split:
    """Returns a split with images in the size and colours that the networks take."""
    if split.images.shape[1:] == trained.image_shape:
        return split
    fitted = np.empty((len(split), *trained.image_shape), np.uint8)
    for index, image in enumerate(split.images):
        opened = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        fitted[index] = fit_image(opened, trained.image_shape, trained.memory)
    return dataclasses.replace(split, images=fitted)


def _few(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more

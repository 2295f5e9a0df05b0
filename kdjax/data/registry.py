"""Names of datasets. A new built-in or special dataset adds its own file and a line here."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from kdjax.data import digits, files, tfds_source
from kdjax.data.dataset import (
    DataError,
    Dataset,
    RawSet,
    Statistics,
    channel_statistics,
    check_split,
)
from kdjax.data.division import SourceOptions, check_classes, divide, warn_of_empty_classes

# The usual statistics of well-known datasets (tin100a: measured on its train split). For any other
# dataset they are computed from its train split.
_STATISTICS: Mapping[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tin100a": ((0.4827, 0.4511, 0.3991), (0.2581, 0.2506, 0.2640)),
}
_KNOWN = ("digits", "cifar10", "cifar100", "svhn_cropped", "tin100a")
_KINDS = ("npz", "folder", "tfds")


def statistics(name: str) -> Statistics | None:
    """The usual mean and standard deviation per channel of a well-known dataset, else None."""
    return _STATISTICS.get(name)


def names() -> tuple[str, ...]:
    """Returns the names of the well-known datasets.

    Any prepared TFDS dataset, ``npz:<file>`` and ``folder:<dir>`` can be loaded too.
    """
    return _KNOWN


def load(name: str, options: SourceOptions | None = None) -> Dataset:
    """Reads a whole dataset into memory.

    Args:
      name: ``digits``; the name of a TFDS dataset prepared as array_record (``cifar10``,
        ``cifar100``, ``svhn_cropped``, ``tin100a``, any other) or the path of a prepared
        directory as ``tfds:<dir>``; ``npz:<file>``; ``folder:<dir>``.
      options: how to read it.

    Raises:
      DataError: if there is no such dataset, or it does not hold labelled images of one shape.
    """
    options = options or SourceOptions()
    raw = _read(name, options)
    num_classes = len(raw.class_names)
    parts = {}
    for part, split in raw.splits.items():  # The first part is train.
        parts[part] = check_split(split, f"{name}, {part}", num_classes)
        if part == "train":
            check_classes(name, parts[part].labels, raw.class_names, options.min_classes)
    shapes = {part: split.images.shape[1:] for part, split in parts.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{part} images are {shape}" for part, shape in shapes.items())
        raise DataError(f"{name}: {found}; expected one shape")
    sizes = {part: len(split) for part, split in parts.items()}
    division = divide(name, sizes, parts["train"].labels, options)
    mean, std = statistics(name) or channel_statistics(parts["train"].images[division.measured])
    splits = {split: parts[part].take(i) for split, (part, i) in division.splits.items()}
    check_classes(name, splits["train"].labels, raw.class_names, options.min_classes)
    labels = {split: part.labels for split, part in splits.items()}
    warn_of_empty_classes(name, labels, raw.class_names)
    return Dataset(name=name, class_names=raw.class_names, mean=mean, std=std, **splits)


def is_array(name: str) -> bool:
    """Whether a dataset is an array already, so that it cannot be streamed."""
    return name == "digits" or name.startswith("npz:")


def check_kind(name: str) -> None:
    """Checks what stands before the colon in the name of a dataset.

    Raises:
      DataError: if there is a colon, and the kind before it is unknown.
    """
    kind, separator, _ = name.partition(":")
    if separator and kind not in _KINDS:
        raise DataError(
            f"unknown kind of dataset {kind!r} in {name!r}: known are "
            f"{', '.join(f'{known}:<path>' for known in _KINDS)}, or a name alone"
        )


def find_prepared(name: str, data_dir: str) -> Path:
    """Returns the directory of a prepared TFDS dataset, as :func:`tfds_source.find` does.

    Raises:
      DataError: if the dataset is not there; the message suggests a similar name.
    """
    try:
        return tfds_source.find(name, data_dir)
    except tfds_source.MissingError as error:
        near = difflib.get_close_matches(name, _KNOWN, n=1)
        hint = f"; did you mean {near[0]}?" if near and near[0] != name else ""
        raise DataError(f"{error}. Known names: {', '.join(_KNOWN)}{hint}") from None


def _read(name: str, options: SourceOptions) -> RawSet:
    kind, separator, location = name.partition(":")
    if name == "digits":
        return digits.read()
    check_kind(name)
    if not separator:
        location = str(find_prepared(name, options.data_dir))
    readers: dict[str, Callable[[], RawSet]] = {
        "npz": lambda: files.read_npz(location),
        "folder": lambda: files.read_folder(
            location, options.image_size, skip_corrupt=options.skip_corrupt
        ),
        "tfds": lambda: tfds_source.read_directory(
            location, options.image_size, skip_corrupt=options.skip_corrupt
        ),
    }
    return readers[kind if separator else "tfds"]()

"""Options for reading a dataset, and its division into splits, in memory or as a stream."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from kdjax.data.dataset import DataError
from kdjax.data.splits import few_per_class, stratified

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
      data_dir: the directory of prepared TFDS datasets; empty means ``$TFDS_DATA_DIR`` or
        ``~/tensorflow_datasets``.
      validation: share of train held out for validation, in [0, 1), if a source has no validation
        split of its own.
      test: share of the source's train part held out for test, if a source has no test split of its
        own; with 0 the test split is empty.
      split_seed: decides which examples are held out.
      labels_per_class: how many examples of each class to train on, of those that are not held out;
        0 means all.
      image_size: (height, width) in pixels that images are resized to while decoding; for a stream,
        the size of the crops. (0, 0) keeps the images' sizes, which must be equal.
      skip_corrupt: whether to leave out examples that do not decode, instead of stopping.
      min_classes: how many classes must have images. A classifier is trained on two or more
        classes, but may be evaluated on images of one class.
    """

    data_dir: str = ""
    validation: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    labels_per_class: int = 0
    image_size: tuple[int, int] = (0, 0)
    skip_corrupt: bool = False
    min_classes: int = 2


@dataclasses.dataclass(frozen=True)
class Division:
    """Which examples each split has.

    Attributes:
      splits: for each of ``train``, ``validation`` and ``test``, the part of the source that the
        split is taken from, and the sorted indices of its examples in that part.
      measured: indices in the source's train part of the examples from which mean and standard
        deviation are computed. These are all examples that are not held out for test.
    """

    splits: Mapping[str, tuple[str, np.ndarray]]
    measured: np.ndarray


def needs_labels(parts: Collection[str], options: SourceOptions) -> bool:
    """Whether the labels decide how a source with these parts is divided."""
    validation = options.validation > 0 and "validation" not in parts
    return "test" not in parts or validation or options.labels_per_class > 0


def divide(
    name: str, sizes: Mapping[str, int], labels: np.ndarray | None, options: SourceOptions
) -> Division:
    """Uses the splits that a source has, and holds out the missing ones from its train part.

    Args:
      name: the dataset's name, for error messages.
      sizes: the number of examples in each part of the source: ``train``, optionally
        ``validation`` and ``test``.
      labels: ``[sizes["train"]]`` integers; may be None if :func:`needs_labels` returns False.
      options: the shares to hold out, and the seed.

    Raises:
      DataError: if train is empty, if test is empty although a share above 0 was asked for, or if a
        class has fewer examples than were asked for.
    """
    train, seed = np.arange(sizes["train"]), options.split_seed
    test = train[:0]
    if "test" not in sizes and labels is not None:
        train, test = stratified(labels, options.test, seed)
        if options.test and not len(test):
            raise DataError(
                f"config.data.test is {options.test}: of {name}'s {sizes['train']} images none is "
                "left to test on"
            )
    measured, validation = train, train[:0]
    if "validation" not in sizes and labels is not None:
        kept, held_out = stratified(labels[train], options.validation, seed)
        train, validation = train[kept], train[held_out]
    if not sizes["train"]:
        raise DataError(f"{name}, train: the split is empty")
    if not len(train):
        raise DataError(
            f"config.data.validation is {options.validation} and config.data.test {options.test}: "
            f"of {name}'s {sizes['train']} images none is left for training"
        )
    if options.labels_per_class and labels is not None:
        train = train[_few(name, labels[train], options)]
    splits = {"train": ("train", train), "validation": ("train", validation)}
    splits["test"] = ("train", test)
    for part in set(sizes) - {"train"}:
        splits[part] = (part, np.arange(sizes[part]))
    _log_unused_options(name, sizes, options)
    return Division(splits, measured)


def _few(name: str, labels: np.ndarray, options: SourceOptions) -> np.ndarray:
    try:
        return few_per_class(labels, options.labels_per_class, options.split_seed)
    except ValueError as error:
        raise DataError(
            f"config.data.labels_per_class is {options.labels_per_class}: {name}, train: {error}"
        ) from None


def _log_unused_options(name: str, parts: Collection[str], options: SourceOptions) -> None:
    """Logs which options have no effect for a source with these parts."""
    for split in ("validation", "test"):
        share, default = getattr(options, split), getattr(SourceOptions(), split)
        # Nobody asked for the default, and 0 asks for nothing to be held out.
        if split in parts and share not in (default, 0.0):
            _LOGGER.warning(
                "%s has a %s split of its own: config.data.%s = %s is not used",
                name,
                split,
                split,
                share,
            )
        elif split in parts and split == "validation":
            _LOGGER.info(
                "%s has a validation split of its own: nothing is held out of train for it", name
            )
        elif split not in parts and split == "test" and "validation" in parts:
            _LOGGER.info(
                "%s has no test split: config.data.test = %s of train is held out", name, share
            )


def check_classes(name: str, labels: np.ndarray, class_names: Sequence[str], least: int) -> None:
    """Checks that enough classes have training images.

    Args:
      name: the dataset's name.
      labels: ``[n]`` integers, in range.
      class_names: one per class.
      least: how many classes must have images.

    Raises:
      DataError: if fewer classes have images.
    """
    present = np.unique(labels)
    if 0 < len(present) < least:  # An empty split raises another error.
        raise DataError(
            f"{name}: training images of 1 class; a classifier needs at least 2 (there is only "
            f"{class_names[present[0]]})"
        )


def warn_of_empty_classes(
    name: str, labels: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> None:
    """Logs a warning for classes without training images, and for splits that lack another class.

    Args:
      name: the dataset's name.
      labels: split -> ``[n]`` integers, in range; with a split ``train``.
      class_names: one per class.
    """
    trained_on = np.bincount(labels["train"], minlength=len(class_names)) > 0
    for split, of_split in labels.items():
        missing = np.bincount(of_split, minlength=len(class_names)) == 0
        wanted = missing if split == "train" else missing & trained_on
        empty = [class_names[int(index)] for index in np.flatnonzero(wanted)]
        if not empty or not len(of_split):
            continue
        _LOGGER.warning(
            "%s: no %s images of %d of %d classes: %s",
            name,
            "training" if split == "train" else split,
            len(empty),
            len(class_names),
            ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else ""),
        )

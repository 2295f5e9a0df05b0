"""Names of datasets. A new embedded or special set adds its file and a line here."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping

from kdjax.data import digits, files, tfds_source
from kdjax.data.dataset import (
    DataError,
    Dataset,
    RawSet,
    Split,
    channel_statistics,
    check_split,
)
from kdjax.data.splits import few_per_class, stratified


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
      data_dir: where prepared TFDS sets lie; empty means ``$TFDS_DATA_DIR`` or
        ``~/tensorflow_datasets``.
      validation: share of train held out for validation, in [0, 1).
      test: share of the whole held out for test where a source has no test split of its own.
      split_seed: decides which examples are held out.
      labels_per_class: how many of what is left of train are trained on, of each class; 0: all.
      image_size: (height, width) to resize to while decoding; (0, 0) keeps sizes.
      skip_corrupt: leave out examples that do not decode, instead of stopping.
    """

    data_dir: str = ""
    validation: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    labels_per_class: int = 0
    image_size: tuple[int, int] = (0, 0)
    skip_corrupt: bool = False


# The usual statistics of the usual sets (tin100a: measured on its train split); any other set's
# are computed from its train split.
_STATISTICS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tin100a": ((0.4827, 0.4511, 0.3991), (0.2581, 0.2506, 0.2640)),
}
_KNOWN = ("digits", "cifar10", "cifar100", "svhn_cropped", "tin100a")


def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The usual mean and deviation per channel of a usual set."""
    return _STATISTICS.get(name)


def names() -> tuple[str, ...]:
    """The named sources; beside them any prepared TFDS set, ``npz:<file>``, ``folder:<dir>``."""
    return _KNOWN


def load(name: str, options: SourceOptions | None = None) -> Dataset:
    """Reads a dataset whole.

    Args:
      name: ``digits``; the name of a TFDS set prepared as array_record (``cifar10``,
        ``cifar100``, ``svhn_cropped``, ``tin100a``, any other) or the path of a prepared
        directory as ``tfds:<dir>``; ``npz:<file>``; ``folder:<dir>``.
      options: how to read it.

    Raises:
      DataError: if there is no such set, or it is not a set of labelled images of one shape.
    """
    options = options or SourceOptions()
    raw = _read(name, options)
    num_classes = len(raw.class_names)
    train = check_split(raw.train, f"{name}, train", num_classes)
    if num_classes < 2:
        raise DataError(f"{name}: {num_classes} class; a classifier needs at least 2")
    if raw.test is None:
        kept, held_out = stratified(train.labels, options.test, options.split_seed)
        train, test = train.take(kept), train.take(held_out)
        check_split(test, f"{name}, test (a share of {options.test} of {len(kept)})", num_classes)
    else:
        test = check_split(raw.test, f"{name}, test", num_classes)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name}: train images are {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; expected one shape"
        )
    kept, held_out = stratified(train.labels, options.validation, options.split_seed)
    mean, std = statistics(name) or channel_statistics(train.images)
    validation = train.take(held_out)
    train = with_few_labels(train.take(kept), name, options)
    return Dataset(name, train, validation, test, raw.class_names, mean, std)


def with_few_labels(train: Split, name: str, options: SourceOptions) -> Split:
    """The part of a training split that ``options.labels_per_class`` asks for.

    Raises:
      DataError: if a class has fewer examples.
    """
    if not options.labels_per_class:
        return train
    try:
        few = few_per_class(train.labels, options.labels_per_class, options.split_seed)
    except ValueError as error:
        raise DataError(
            f"config.data.labels_per_class is {options.labels_per_class}: {name}, train: {error}"
        ) from None
    return train.take(few)


def _read(name: str, options: SourceOptions) -> RawSet:
    kind, separator, location = name.partition(":")
    if name == "digits":
        return digits.read()
    if not separator:
        try:
            folder = tfds_source.find(name, options.data_dir)
            return tfds_source.read_directory(
                str(folder), options.image_size, skip_corrupt=options.skip_corrupt
            )
        except tfds_source.MissingError as error:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            hint = f"; did you mean {near[0]}?" if near and near[0] != name else ""
            raise DataError(f"{error}. Known names: {', '.join(_KNOWN)}{hint}") from None
    readers: dict[str, Callable[[], RawSet]] = {
        "npz": lambda: files.read_npz(location),
        "folder": lambda: files.read_folder(
            location, options.image_size, skip_corrupt=options.skip_corrupt
        ),
        "tfds": lambda: tfds_source.read_directory(
            location, options.image_size, skip_corrupt=options.skip_corrupt
        ),
    }
    if kind not in readers:
        raise DataError(
            f"unknown kind of dataset {kind!r} in {name!r}: known are "
            f"{', '.join(f'{known}:<path>' for known in readers)}, or a name alone"
        )
    return readers[kind]()

"""The types that every data source returns, and the checks that every source must pass."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np


class DataError(ValueError):
    """A dataset that is missing or wrong; the message says which, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``[n, height, width, channels]`` uint8 and labels ``[n]`` int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True)
class RawSet:
    """What a source reads: ``train``, optionally ``validation`` and ``test``; class names."""

    splits: Mapping[str, Split]
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named dataset with its splits.

    Attributes:
      name: the name that was asked for.
      train, validation, test: the splits. If a source has no validation or test split of its own,
        the split is held out of its train split. Validation may be empty.
      class_names: one per class, in label order.
      mean, std: per channel, of pixel values in [0, 1], for normalisation.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        _, height, width, channels = self.train.images.shape
        return height, width, channels

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split) for name, split in splits.items()}

    def fingerprint(self) -> str:
        """A digest of all images and labels: equal digests mean equal data in equal order."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for array in (split.images, split.labels):
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def check_split(split: Split, where: str, num_classes: int) -> Split:
    """Checks that the arrays are uint8 images with labels in range.

    Args:
      split: the arrays as the source gives them.
      where: the name of the dataset and split, for error messages.
      num_classes: how many classes the dataset has.

    Returns:
      The split with contiguous images and int32 labels.

    Raises:
      DataError: if the images or the labels are wrong.
    """
    images, labels = split.images, split.labels
    if images.ndim != 4:
        raise DataError(
            f"{where}: images have shape {images.shape}; expected 4 axes, "
            "[n, height, width, channels]"
        )
    if images.dtype != np.uint8:
        raise DataError(f"{where}: images have dtype {images.dtype}; expected uint8, 0 to 255")
    if images.shape[3] not in (1, 3):
        raise DataError(f"{where}: images have {images.shape[3]} channels; expected 1 or 3")
    if min(images.shape[1:3]) < 8:
        raise DataError(
            f"{where}: images are {images.shape[1]} x {images.shape[2]} pixels; expected at "
            "least 8 x 8"
        )
    check_labels(labels, where, num_classes)
    if len(labels) != len(images):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels")
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))


def check_labels(labels: np.ndarray, where: str, num_classes: int) -> None:
    """Checks that there are integer labels, all of them in range.

    Args:
      labels: ``[n]``.
      where: the name of the dataset and split, for error messages.
      num_classes: labels must be in ``[0, num_classes)``.

    Raises:
      DataError: if there are no labels, or they are not integers or not in range.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; expected one "
            "integer per image"
        )
    if len(labels) == 0:
        raise DataError(f"{where}: the split is empty")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise DataError(
            f"{where}: label {labels[outside[0]]} of example {outside[0]} is outside "
            f"[0, {num_classes}); {len(outside)} labels are"
        )


_COUNTED_AT_ONCE = 1000  # images

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def channel_statistics(images: np.ndarray) -> Statistics:
    """Mean and standard deviation per channel of uint8 images, scaled so that 255 is 1."""
    return statistics_of(histogram(images))


def histogram(images: np.ndarray) -> np.ndarray:
    """Counts the values of uint8 images ``[..., channels]``; returns ``[channels, 256]``."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), _COUNTED_AT_ONCE):  # NumPy counts 64-bit copies.
        chunk = images[start : start + _COUNTED_AT_ONCE]
        for channel, own in enumerate(counts):
            own += np.bincount(chunk[..., channel].ravel(), minlength=256)
    return counts


def statistics_of(counts: np.ndarray) -> Statistics:
    """Mean and standard deviation per channel of a :func:`histogram`, scaled so that 255 is 1."""
    values = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in counts:
        share = channel / channel.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1e-3))
    return tuple(means), tuple(deviations)


def batches_of(examples: int, batch_size: int) -> int:
    """How many batches so many examples make; the last one may be short."""
    return -(-examples // batch_size)

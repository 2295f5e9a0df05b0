"""The user's own data: one npz file, or a folder with one folder per class."""

import collections
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kdjax.data import cache
from kdjax.data.dataset import DataError, RawSet, Split
from kdjax.data.folders import find_images, read_file
from kdjax.data.images import colour_mode, decode_all

_LOGGER = logging.getLogger(__name__)

_PARTS = ("train", "validation", "test")

# Up to this many classes may be counted from labels, even if there are fewer images.
_MAX_COUNTED_CLASSES = 100_000


def read_npz(location: str) -> RawSet:
    """Reads ``train_images`` and ``train_labels``, and those of validation and test if present.

    Images are ``[n, height, width, channels]`` or ``[n, height, width]`` uint8, labels ``[n]``
    integers. ``class_names``, ``[classes]`` strings, is optional; if it holds bytes, they are
    UTF-8. Without it, the classes are 0 to the largest training label.

    Raises:
      DataError: if the file is not such an archive.
    """
    name = f"config.data.name is 'npz:{location}'"
    if not location:
        raise DataError(f"{name}: expected npz:<file>")
    path = Path(os.path.expanduser(location))
    if not path.is_file():
        raise DataError(f"{name}: there is no such file")
    arrays = _read_arrays(location, path)
    splits = {part: _npz_split(arrays, part) for part in _PARTS if f"{part}_labels" in arrays}
    if "class_names" in arrays:
        class_names = _class_names(location, arrays["class_names"])
    else:
        class_names = _numbered_class_names(location, splits)
    return RawSet(splits, class_names)


def _read_arrays(location: str, path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an archive that are used; others are named in a warning."""
    pairs = {part: {f"{part}_images", f"{part}_labels"} for part in _PARTS}
    arrays, reading = {}, ""
    try:
        # The file is opened here because NumPy does not close a broken archive.
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError("it is not an npz archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                stored = set(archive.files)
                known = stored & set().union({"class_names"}, *pairs.values())
                for name in sorted(known):
                    reading = f"{name}: "
                    arrays[name] = archive[name]
                    # NumPy returns raw bytes for an entry that is not stored as an array.
                    if not isinstance(arrays[name], np.ndarray):
                        raise DataError("not stored as an array")
    except Exception as error:  # A damaged archive raises errors of many types, some without text.
        reason = str(error) or type(error).__name__
        raise DataError(f"npz:{location} cannot be read: {reading}{reason}") from None
    halves = [part for part, pair in pairs.items() if len(pair & stored) == 1]
    if halves or not pairs["train"] <= stored:
        raise DataError(
            f"npz:{location} holds {sorted(stored)}; expected {sorted(pairs['train'])} and, if at "
            "all together, validation_images and validation_labels, test_images and test_labels"
        )
    if unknown := stored - known:
        _LOGGER.warning("npz:%s: not used: %s", location, ", ".join(sorted(unknown)))
    return arrays


def _numbered_class_names(location: str, splits: Mapping[str, Split]) -> tuple[str, ...]:
    """Returns the names of the classes, from 0 to the largest training label."""
    labels = splits["train"].labels
    if not labels.size or not np.issubdtype(labels.dtype, np.integer):
        return ()  # A later check of the split raises the error.
    largest = int(labels.max())
    images = sum(split.labels.size for split in splits.values())
    if largest >= max(images, _MAX_COUNTED_CLASSES):
        raise DataError(
            f"npz:{location}, train: label {largest} of example {labels.argmax()} means "
            f"{largest + 1:,} classes; without class_names there may be as many classes as images "
            f"in all splits, {images:,}, or up to {_MAX_COUNTED_CLASSES:,}"
        )
    return tuple(str(index) for index in range(largest + 1))


def _class_names(location: str, names: np.ndarray) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(
            f"npz:{location}, class_names has shape {names.shape} and dtype {names.dtype}: "
            "expected a text for each class"
        )
    try:
        listed = (np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names).tolist()
    except UnicodeDecodeError as error:
        raise DataError(f"npz:{location}, class_names: bytes that are not UTF-8: {error}") from None
    if twice := [name for name, count in collections.Counter(listed).items() if count > 1]:
        raise DataError(f"npz:{location}, class_names: {twice[0]!r} is there more than once")
    return tuple(listed)


def _npz_split(arrays: dict[str, np.ndarray], part: str) -> Split:
    images = arrays[f"{part}_images"]
    return Split(images[..., None] if images.ndim == 3 else images, arrays[f"{part}_labels"])


def read_folder(location: str, size: tuple[int, int], *, skip_corrupt: bool = False) -> RawSet:
    """Reads the image files of a folder; the result is grey if all images are grey.

    :func:`kdjax.data.folders.find_images` finds the files.

    Args:
      location: the folder.
      size: (height, width) in pixels to resize to; (0, 0) keeps sizes, which must be equal.
      skip_corrupt: whether to leave out files that do not decode, with a warning for each.

    Raises:
      DataError: as :func:`kdjax.data.folders.find_images`, or if a file does not decode.
    """
    root, class_names, listings = find_images(location)
    names = [name for listing in listings.values() for name, _ in listing]
    paths = [root / name for name in names]

    def read(index: int) -> tuple[bytes, str]:
        return read_file(paths[index]), str(paths[index])

    fresh = False

    def make() -> dict[str, np.ndarray]:
        nonlocal fresh
        fresh = True  # Each file that does not decode is named while it is read.
        mode = colour_mode(((path, str(path)) for path in paths), skip_corrupt=skip_corrupt)
        images, decoded = decode_all(
            len(paths), read, size, mode, root.resolve().name, skip_corrupt=skip_corrupt
        )
        return {"images": images, "decoded": decoded}

    name = f"folder-{cache.key(paths, names, size, skip_corrupt)}"
    arrays = cache.cached(name, make)
    images, decoded = arrays["images"], arrays["decoded"]
    if not fresh and not decoded.all():
        broken = [names[index] for index in np.flatnonzero(~decoded)]
        _LOGGER.warning(
            "folder:%s: %d files do not decode and are left out: %s%s",
            location,
            len(broken),
            ", ".join(broken[:5]),
            ", ..." if len(broken) > 5 else "",
        )
    splits, start, place = {}, 0, 0
    for part, listing in listings.items():
        kept = decoded[start : start + len(listing)]
        labels = np.array([label for _, label in listing], np.int32)[kept]
        splits[part] = Split(images[place : place + len(labels)], labels)
        start, place = start + len(listing), place + len(labels)
    return RawSet(splits, class_names)

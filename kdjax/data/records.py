"""Encoded images one by one, from prepared TFDS sets and folders; opened where they are read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from kdjax.data.dataset import DataError
from kdjax.data.files import find_images
from kdjax.data.images import colour_mode
from kdjax.data.tfds_source import feature_keys, open_builder, open_part


class Records(Protocol):
    """Labelled, encoded images by number; can be sent to another process."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """(encoded image, label)."""
        ...

    def where(self, index: int) -> str:
        """What to call it in errors."""
        ...

    def identity(self) -> str:
        """A digest of names and sizes of all files."""
        ...


class PreparedRecords:
    """One part of a prepared TFDS set."""

    def __init__(self, folder: Path, part: str, image_key: str, label_key: str, count: int):
        self._folder, self._part, self._count = folder, part, count
        self._image_key, self._label_key = image_key, label_key
        self._source: Any = None

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}  # Open files do not travel.

    def read(self, index: int) -> tuple[bytes, int]:
        if self._source is None:
            builder = open_builder(self._folder)
            self._source = open_part(builder, self._part, self._folder, self._image_key)
        try:
            record = self._source[index]
        except Exception as error:  # array_record raises bare errors of many types.
            raise DataError(f"{self.where(index)} cannot be read: {error}") from None
        return record[self._image_key], int(record[self._label_key])

    def where(self, index: int) -> str:
        return f"{self._folder}, {self._part}, record {index}"

    def identity(self) -> str:
        files = sorted(path for path in self._folder.iterdir() if path.is_file())
        listing = [(path.name, path.stat().st_size) for path in files]
        info = (self._folder / "dataset_info.json").read_bytes()
        return hashlib.sha256(repr((self._part, listing, info)).encode()).hexdigest()


class FolderRecords:
    """Image files with their labels."""

    def __init__(self, root: Path, listing: Sequence[tuple[Path, int]]):
        self._root, self._listing = root, listing

    def __len__(self) -> int:
        return len(self._listing)

    def read(self, index: int) -> tuple[bytes, int]:
        path, label = self._listing[index]
        try:
            return path.read_bytes(), label
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from None

    def where(self, index: int) -> str:
        return str(self._listing[index][0])

    def identity(self) -> str:
        digest = hashlib.sha256()
        for path, label in self._listing:
            name = path.relative_to(self._root)
            digest.update(f"{name} {label} {path.stat().st_size}\n".encode())
        return digest.hexdigest()


Opened = tuple[dict[str, Records], tuple[str, ...], int]


def open_prepared(folder: Path) -> Opened:
    """The parts ``train`` and, where there is one, ``test``; class names; channels.

    Raises:
      DataError: if it is not a prepared array_record set with one image and one class label.
    """
    builder = open_builder(folder)
    image_key, label_key = feature_keys(builder.info.features, folder)
    splits = builder.info.splits
    names = {"train": "train", "test": "test" if "test" in splits else "validation"}
    parts: dict[str, Records] = {
        part: PreparedRecords(folder, name, image_key, label_key, splits[name].num_examples)
        for part, name in names.items()
        if name in splits
    }
    if "train" not in parts:
        raise DataError(f"{folder} has splits {list(splits)}; expected train")
    channels = 1 if builder.info.features[image_key].shape[-1] == 1 else 3
    return parts, tuple(builder.info.features[label_key].names), channels


def open_folder(location: str) -> Opened:
    """The same of ``<class>/<image>`` files; grey if the first image is.

    Raises:
      DataError: as :func:`kdjax.data.files.find_images`.
    """
    root, class_names, listings = find_images(location)
    parts: dict[str, Records] = {
        part: FolderRecords(root, listing) for part, listing in listings.items()
    }
    first = parts["train"].read(0)[0], parts["train"].where(0)
    return parts, class_names, 1 if colour_mode([first]) == "L" else 3

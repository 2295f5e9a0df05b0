"""Reads encoded images one by one, from prepared TFDS datasets and from folders.

Files are opened by the process that reads them.
"""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdjax.data.dataset import DataError
from kdjax.data.folders import find_images, read_file
from kdjax.data.images import colour_mode
from kdjax.data.tfds_source import feature_keys, open_builder, open_part, readable, split_names

_CHUNK = 512  # records read at once
# TFDS imports its modules when they are first used, some only when the first record is read. Two
# threads that do this at the same time can wait for each other for ever.
_OPENING = threading.Lock()


class Records(Protocol):
    """Encoded images with labels, read by index; can be sent to another process.

    Attributes:
      size: (height, width) of all images, if it is known without reading them; else None.
    """

    size: tuple[int, int] | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """Returns (encoded image, label) of one record."""
        ...

    def all(self) -> Iterator[tuple[bytes | Path, int]]:
        """Yields (encoded image or its file, label) of all in order; faster than :meth:`read`."""
        ...

    def where(self, index: int) -> str:
        """Returns the record's name in error messages."""
        ...

    def identity(self, *, times: bool = False) -> str:
        """Returns a digest of all files' names and sizes.

        With ``times``, the digest also depends on the files' modification times. It may be computed
        once and kept.
        """
        ...


class PreparedRecords:
    """One part of a prepared TFDS dataset."""

    def __init__(self, folder: Path, part: str, image_key: str, label_key: str):
        """Opens only the dataset's description; ``part`` is TFDS's name of the split."""
        self._folder, self._part = folder, part
        self._image_key, self._label_key = image_key, label_key
        info = open_builder(folder).info
        self._count = info.splits[part].num_examples
        height, width, _ = info.features[image_key].shape
        self.size: tuple[int, int] | None = (height, width) if height and width else None
        self._source: Any = None

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}  # Open files cannot be sent to another process.

    def read(self, index: int) -> tuple[bytes, int]:
        return self._pair(self._get(lambda source: source[index], self.where(index)))

    def all(self) -> Iterator[tuple[bytes, int]]:
        for start in range(0, self._count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, self._count))
            where = self.where(start)
            for record in self._get(lambda source, c=chunk: source.__getitems__(c), where):
                yield self._pair(record)

    def _get(self, get: Any, where: str) -> Any:
        with _OPENING:
            if self._source is None:
                self._source = self._open()
        with readable(where):
            return get(self._source)

    def _open(self) -> Any:
        builder = open_builder(self._folder)
        source = open_part(builder, self._part, self._folder, self._image_key)
        # Reading a record completes TFDS's imports. If it fails, the next read raises the error.
        with contextlib.suppress(Exception):
            source[0]
        return source

    def _pair(self, record: dict[str, Any]) -> tuple[bytes, int]:
        return record[self._image_key], int(record[self._label_key])

    def where(self, index: int) -> str:
        return f"{self._folder}, {self._part}, record {index}"

    def identity(self, *, times: bool = False) -> str:
        files = sorted(path for path in self._folder.iterdir() if path.is_file())
        listing = [(path.name, *_stamp(path)[: 1 + times]) for path in files]
        info = (self._folder / "dataset_info.json").read_bytes()
        return hashlib.sha256(repr((self._part, listing, info)).encode()).hexdigest()


class FolderRecords:
    """Image files with their labels."""

    size: tuple[int, int] | None = None

    def __init__(self, root: Path, listing: Sequence[tuple[str, int]]):
        """Opens nothing; ``listing`` has files, relative to the folder ``root``, and labels."""
        self._root, self._listing = root, listing

    def __len__(self) -> int:
        return len(self._listing)

    def read(self, index: int) -> tuple[bytes, int]:
        name, label = self._listing[index]
        return read_file(self._root / name), label

    def all(self) -> Iterator[tuple[Path, int]]:
        return ((self._root / name, label) for name, label in self._listing)

    def where(self, index: int) -> str:
        return str(self._root / self._listing[index][0])

    def identity(self, *, times: bool = False) -> str:
        return self._identities[times]

    @functools.cached_property
    def _identities(self) -> tuple[str, str]:
        """The identity without times and with them; each file is looked at once."""
        digests = hashlib.sha256(), hashlib.sha256()
        for name, label in self._listing:
            size, time = _stamp(f"{self._root}/{name}")
            for digest, stamp in zip(digests, (f"{size}", f"{size} {time}"), strict=True):
                digest.update(f"{name} {label} {stamp}\n".encode(errors="surrogateescape"))
        return digests[0].hexdigest(), digests[1].hexdigest()


def _stamp(path: str | Path) -> tuple[int, int]:
    """Returns a file's size in bytes, and the time of its last change in nanoseconds."""
    try:
        stat = os.stat(path)
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return stat.st_size, stat.st_mtime_ns


Opened = tuple[dict[str, Records], tuple[str, ...], int]


def open_prepared(folder: Path) -> Opened:
    """Opens a prepared TFDS dataset; returns its parts, class names and number of channels.

    The parts are ``train`` and, if present, ``validation`` and ``test``.

    Raises:
      DataError: if it is not a prepared array_record dataset with one image and one class label.
    """
    builder = open_builder(folder)
    image_key, label_key = feature_keys(builder.info.features, folder)
    parts: dict[str, Records] = {
        part: PreparedRecords(folder, stored, image_key, label_key)
        for part, stored in split_names(builder, folder, image_key, label_key).items()
    }
    channels = 1 if builder.info.features[image_key].shape[-1] == 1 else 3
    return parts, tuple(builder.info.features[label_key].names), channels


def open_folder(location: str, *, skip_corrupt: bool = False) -> Opened:
    """Opens ``<class>/<image>`` files; returns parts, class names and number of channels.

    There is 1 channel if all images are grey, else there are 3.

    Raises:
      DataError: as :func:`kdjax.data.folders.find_images`, or if a file is not an image.
    """
    root, class_names, listings = find_images(location)
    parts: dict[str, Records] = {
        part: FolderRecords(root, listing) for part, listing in listings.items()
    }
    paths = (root / name for listing in listings.values() for name, _ in listing)
    mode = colour_mode(((path, str(path)) for path in paths), skip_corrupt=skip_corrupt)
    return parts, class_names, 1 if mode == "L" else 3

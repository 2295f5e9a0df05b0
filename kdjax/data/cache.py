"""A cache on disk for arrays that were made from a dataset's files."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from kdjax import atomic
from kdjax.process import cache_directory

_LOGGER = logging.getLogger(__name__)

_FORMAT = "2"  # Part of every key: raise it when the meaning of a cached file changes.


def key(files: Iterable[Path], *parameters: object) -> str:
    """Returns a digest of the files' contents, in order, and of all else the arrays depend on."""
    digest = hashlib.sha256(repr((_FORMAT, *parameters)).encode())
    for path in files:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:  # The decoder raises this error later, or leaves the file out.
            digest.update(b"unreadable")
    return digest.hexdigest()


def cached(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays stored under ``name``; if there are none, makes and stores them.

    If the cache cannot be read or written, a warning is logged and the run goes on: the arrays are
    made again.
    """
    path = cache_directory() / "data" / f"{name}.npz"
    if os.path.exists(path):  # Not Path.exists, which raises an error without permission.
        try:
            # The file is opened here because NumPy does not close a broken archive.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                return {field: stored[field] for field in stored.files}
        except Exception as error:  # A damaged archive raises errors of many types.
            reason = str(error) or type(error).__name__
            _LOGGER.warning("%s cannot be read (%s): decoding again", path, reason)
    arrays = make()
    try:
        with atomic.replacing(path) as temporary, open(temporary, "wb") as output:
            # By NumPy's stubs, an array here could also be the value of allow_pickle.
            np.savez(output, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        _LOGGER.warning("decoded images are not cached: %s", error)
    return arrays

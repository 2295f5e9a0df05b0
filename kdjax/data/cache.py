"""Decoded arrays on disk, keyed by the content they were decoded from."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from kdjax import atomic
from kdjax.process import cache_directory

_LOGGER = logging.getLogger(__name__)

_FORMAT = "2"  # Part of every key: raise it when the meaning of a cached file changes.


def key(files: Iterable[Path], *parameters: object) -> str:
    """A digest of the files' contents, in order, and of all else that the arrays depend on."""
    digest = hashlib.sha256(repr((_FORMAT, *parameters)).encode())
    for path in files:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:  # Who reads it meets the error, and may leave the file out.
            digest.update(b"unreadable")
    return digest.hexdigest()


def cached(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays stored under ``name``; if there are none yet, they are made and stored.

    If the cache cannot be read or written, the arrays are made again; the run goes on.
    """
    path = cache_directory() / "data" / f"{name}.npz"
    if path.exists():
        try:
            # Opened here because NumPy leaves a broken archive open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                return {field: stored[field] for field in stored.files}
        except Exception as error:  # A damaged archive raises errors of many types.
            reason = str(error) or type(error).__name__
            _LOGGER.warning("%s cannot be read (%s): decoding again", path, reason)
    arrays = make()
    try:
        with atomic.replacing(path) as temporary, open(temporary, "wb") as output:
            # Typed as keyword arguments of any kind by NumPy's stubs.
            np.savez(output, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        _LOGGER.warning("decoded images are not cached: %s", error)
    return arrays

"""Finds what must be known before a dataset is streamed: labels, image size, statistics.

Results that need many files to be read are kept in the cache, keyed by the names, sizes and
modification times of the dataset's files.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.progress import track

from kdjax import machine
from kdjax.data import cache
from kdjax.data.dataset import DataError, Statistics, histogram, statistics_of
from kdjax.data.images import decode, header, sizes_differ
from kdjax.data.records import Records

# Mean and standard deviation of a stream are computed from at most this many images.
SAMPLE = 10_000
_LONG = 5_000  # with at least this many records, a progress bar is shown


def read_labels(records: Records, name: str) -> np.ndarray:
    """Returns ``[n]`` int32 labels of all records; no image is decoded."""

    def make() -> dict[str, np.ndarray]:
        return {"labels": np.array([label for _, label in _all(records, f"labels of {name}")])}

    labels = cache.cached(_key("labels", records.identity(times=True)), make)["labels"]
    return labels.astype(np.int32)


def common_size(
    parts: Mapping[str, Records], name: str, *, skip_corrupt: bool = False
) -> tuple[int, int]:
    """Returns the (height, width) that all images have; reads only their headers.

    Args:
      parts: the parts of the dataset.
      name: the dataset's name, for the progress bar.
      skip_corrupt: whether to skip files that are not images.

    Raises:
      DataError: if two images differ in size; the message names them, and the field that resizes
        images.
    """
    known = {records.size for records in parts.values()}
    if len(known) == 1 and (size := known.pop()) is not None:
        return size

    def make() -> dict[str, np.ndarray]:
        first: tuple[str, tuple[int, int]] | None = None
        for records in parts.values():
            for index, (source, _) in enumerate(_all(records, f"image sizes of {name}")):
                found = header(source, records.where(index), skip_corrupt=skip_corrupt)
                if found is None:
                    continue
                first = first or (records.where(index), found[1])
                if found[1] != first[1]:
                    raise sizes_differ(records.where(index), found[1], *first)
        if first is None:
            raise DataError(f"{name}: none of its images decodes")
        return {"size": np.array(first[1])}

    identities = [records.identity(times=True) for records in parts.values()]
    height, width = cache.cached(_key("size", *identities, skip_corrupt), make)["size"].tolist()
    return height, width


def sampled_statistics(
    records: Records,
    indices: np.ndarray,
    size: tuple[int, int],
    mode: str,
    seed: int,
    *,
    skip_corrupt: bool = False,
) -> Statistics:
    """Computes mean and standard deviation per channel of up to :data:`SAMPLE` images.

    Each image is resized as a whole. For a dataset that is held in memory, mean and standard
    deviation are computed in the same way from all images.

    Args:
      records: the records to read images from.
      indices: the records' indices to choose from.
      size: (height, width) to resize to.
      mode: ``RGB``, or ``L`` for grey.
      seed: decides which images are drawn if there are more.
      skip_corrupt: whether to skip images that do not decode.

    Raises:
      DataError: if an image does not decode (unless ``skip_corrupt``), or no image decodes.
    """
    if len(indices) > SAMPLE:
        indices = np.sort(np.random.default_rng(seed).choice(indices, SAMPLE, replace=False))

    def count(index: int) -> np.ndarray | None:
        try:
            encoded, _ = records.read(index)
            return histogram(decode(encoded, records.where(index), size, mode))
        except DataError:
            if not skip_corrupt:
                raise
            return None

    def make() -> dict[str, np.ndarray]:
        total, label = np.zeros((1 if mode == "L" else 3, 256), np.int64), "measuring colours"
        with ThreadPoolExecutor(machine.usable_cores()) as pool:
            counts = pool.map(count, indices.tolist())
            for one in track(
                counts, label, total=len(indices), transient=True, disable=len(indices) < _LONG
            ):
                total += 0 if one is None else one
        if not total.any():
            raise DataError(f"{records.where(0)}: none of {len(indices)} images decodes")
        return {"counts": total}

    chosen = hashlib.sha256(indices.astype(np.int64).tobytes()).hexdigest()
    identity = records.identity(times=True)
    name = _key("colours", identity, chosen, size, mode, skip_corrupt)
    return statistics_of(cache.cached(name, make)["counts"])


def _all(records: Records, label: str) -> Any:
    return track(
        records.all(),
        f"reading {label}",
        total=len(records),
        transient=True,
        disable=len(records) < _LONG,
    )


def _key(kind: str, *parameters: object) -> str:
    return f"{kind}-{cache.key((), kind, *parameters)}"

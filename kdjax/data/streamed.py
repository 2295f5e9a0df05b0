"""Datasets too large for memory: images are read, decoded and cropped for every batch.

An example of a training batch depends only on the seed, the step and its position in the batch. So
a stream can start at any step, and gives the same examples with any number of processes, workers or
threads. A stream has no other state.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from kdjax import machine
from kdjax.data.crops import TrainingCrop, central_crop
from kdjax.data.dataset import DataError, batches_of, check_labels
from kdjax.data.division import (
    SourceOptions,
    check_classes,
    divide,
    needs_labels,
    warn_of_empty_classes,
)
from kdjax.data.images import decode_with, sizes_differ
from kdjax.data.records import Opened, Records, open_folder, open_prepared
from kdjax.data.registry import check_kind, find_prepared, is_array, statistics
from kdjax.data.survey import common_size, read_labels, sampled_statistics
from kdjax.data.tfds_source import directory

_LOGGER = logging.getLogger(__name__)

# With more threads than this they wait for the interpreter, unless reading is slow.
_THREADS = min(16, 2 * machine.usable_cores())
# The number of steps in a stream; no run takes more.
_STEPS = 1 << 40


class HostBatch(NamedTuple):
    """One process's rows of a global batch.

    Attributes:
      images: ``[rows, height, width, channels]`` uint8, cropped and flipped.
      labels: ``[rows]`` int32.
      mask: ``[rows]`` bool, False for padding and for examples that were left out.
      indices: ``[rows]`` int32, the index of each example in its split; 0 for padding.
    """

    images: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A named dataset whose images are not held in memory.

    Attributes:
      name: the name that was asked for.
      records: for each split, the records it is read from, and the record index of each example.
      class_names: one per class, in label order.
      mean, std: per channel, of pixel values in [0, 1], for normalisation.
      size: (height, width) of the crops.
      keep_sizes: whether all images must have that size; if so, another size is an error.
      skip_corrupt: whether examples that do not decode are left out, instead of raising an error.
    """

    name: str
    records: Mapping[str, tuple[Records, np.ndarray]]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    keep_sizes: bool = False
    skip_corrupt: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the crops."""
        return (*self.size, len(self.mean))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each split."""
        return {split: len(indices) for split, (_, indices) in self.records.items()}

    def fingerprint(self) -> str:
        """Returns a digest of all files' names and sizes, of the splits and of the crops' size.

        The files' contents are not read, because that would take as long as an epoch.
        """
        digest = hashlib.sha256(repr((self.image_shape, self.class_names)).encode())
        for split, (records, indices) in sorted(self.records.items()):
            digest.update(f"{split} {records.identity()}".encode())
            digest.update(np.ascontiguousarray(indices, np.int64).tobytes())
        return digest.hexdigest()

    def train_batches(
        self,
        *,
        seed: int,
        first_step: int,
        batch_size: int,
        flip: bool = True,
        resized_crop: bool = True,
        crop_padding: int = 0,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        threads: int = 0,
    ) -> Iterator[HostBatch]:
        """Returns an endless iterator of training batches, starting at a given step.

        Every epoch has each training example once, in a new order; its last batch is padded. A
        process gets every ``processes``-th row of the batch, starting with row ``process``.

        Args:
          seed: for order, crops and flips; below 2**31.
          first_step: the step of the run to start at.
          batch_size: examples per batch of all processes together; a multiple of ``processes``.
          flip: whether half of the images are flipped left to right.
          resized_crop: whether to take a random part of each image and resize it. If not, the
            image is cropped as in evaluation, and then shifted.
          crop_padding: without ``resized_crop``, the largest shift of an image in pixels, in height
            and in width; pixels from outside the central crop are 0.
          process: the index of this process, from 0.
          processes: the number of processes.
          workers: how many worker processes decode images; with 0, threads of this process decode
            them. The results are equal.
          threads: how many threads read and decode if there are no workers; 0 means two for each
            core, at most 16.
        """
        _check_shares(batch_size, processes)
        size = len(self.records["train"][1])
        steps_per_epoch = batches_of(size, batch_size)
        crop = TrainingCrop(self.size, -1 if resized_crop else crop_padding)
        example = _TrainExample(self, seed, size, steps_per_epoch * batch_size, crop, flip)
        first = first_step * batch_size
        positions = (first + process, first + _STEPS * batch_size, processes)
        return self._batches(positions, example, batch_size // processes, workers, threads)

    def evaluation_batches(
        self,
        split: str,
        *,
        batch_size: int,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        threads: int = 0,
    ) -> Iterator[HostBatch]:
        """Returns batches of a split's examples in order, centrally cropped; the last is padded.

        Args:
          split: ``train``, ``validation`` or ``test``.
          batch_size: examples per batch of all processes together; a multiple of ``processes``.
          process: the index of this process, from 0.
          processes: the number of processes.
          workers: how many worker processes decode images; with 0, threads of this process decode
            them.
          threads: how many threads read and decode, as in :meth:`train_batches`.
        """
        _check_shares(batch_size, processes)
        size = len(self.records[split][1])
        example = _EvaluationExample(self, split, size)
        positions = (process, batches_of(size, batch_size) * batch_size, processes)
        return self._batches(positions, example, batch_size // processes, workers, threads)

    def _batches(
        self,
        positions: tuple[int, int, int],
        example: Callable[[int], dict[str, Any]],
        rows: int,
        workers: int,
        threads: int,
    ) -> Iterator[HostBatch]:
        import grain

        examples = grain.MapDataset.range(*positions).map(example)
        if workers:
            # Workers make batches in turn. Each has up to two batches in its threads, and one that
            # is ready to be fetched.
            _parse_flags()
            options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
            batches = examples.batch(rows).to_iter_dataset(options)
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        else:
            # At most two batches' images are decoded ahead, while one batch is put together.
            count = threads or _THREADS
            options = grain.ReadOptions(num_threads=count, prefetch_buffer_size=2 * rows)
            batches = examples.to_iter_dataset(options).batch(rows)
        iterator = iter(batches)
        try:
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except DataError:
                    raise
                except Exception as error:
                    raise _unwrapped(error) from error
                # A worker's memory is freed when it ends; a single row is Pillow's, read-only.
                own = np.array if workers or rows == 1 else np.asarray
                yield HostBatch(*(own(batch[name]) for name in HostBatch._fields))
                del batch
        finally:
            iterator.close()

    def example(
        self, split: str, index: int, crop: Callable[[PIL.Image.Image], PIL.Image.Image]
    ) -> dict[str, Any]:
        """Reads one example of a split and crops it.

        Args:
          split: ``train``, ``validation`` or ``test``.
          index: the example's index in its split, from 0.
          crop: a function from an image to an image of :attr:`size`.

        Returns:
          ``images`` ``[height, width, channels]`` uint8, and the scalars ``labels`` int32, ``mask``
          bool and ``indices`` int32.

        Raises:
          DataError: if the example cannot be read or decoded (unless ``skip_corrupt``), if its
            label is out of range, or if it does not have the size that all images must have.
        """
        records, indices = self.records[split]
        record = int(indices[index])
        where = records.where(record)
        sizes: list[tuple[int, int]] = []

        def noted(image: PIL.Image.Image) -> PIL.Image.Image:
            sizes.append((image.height, image.width))
            return crop(image)

        try:
            encoded, label = records.read(record)
            image = decode_with(encoded, where, "L" if len(self.mean) == 1 else "RGB", noted)
        except DataError as error:
            if not self.skip_corrupt:
                raise
            _LOGGER.warning("%s: left out", error)
            return self.padding()
        if self.keep_sizes and sizes != [self.size]:
            raise sizes_differ(where, sizes[0], "the first image", self.size)
        if not 0 <= label < self.num_classes:
            raise DataError(f"{where}: label {label} is outside [0, {self.num_classes})")
        return _row(image, label, True, index)

    def padding(self) -> dict[str, Any]:
        """Returns the values that fill a row without an example."""
        return _row(np.zeros(self.image_shape, np.uint8), 0, False, 0)


def _row(image: np.ndarray, label: int, real: bool, index: int) -> dict[str, Any]:
    """Returns the fields of a :class:`HostBatch` for one example."""
    scalars = {"labels": np.int32(label), "mask": np.bool_(real), "indices": np.int32(index)}
    return {"images": image, **scalars}


class _TrainExample:
    """Maps a position in the run to an example; is sent to worker processes."""

    def __init__(
        self, streamed: Streamed, seed: int, size: int, padded: int, crop: Any, flip: bool
    ):
        import grain

        self._streamed, self._seed = streamed, seed
        self._size, self._padded = size, padded
        self._crop, self._flip = crop, flip
        # grain computes each index of the order, so no array as large as the dataset is needed.
        self._order = grain.MapDataset.range(size).seed(seed).shuffle().repeat()

    def __call__(self, position: int) -> dict[str, Any]:
        epoch, place = divmod(int(position), self._padded)
        if place >= self._size:
            return self._streamed.padding()
        rng = np.random.default_rng((self._seed, int(position)))
        mirrored = self._flip and rng.random() < 0.5

        def crop(image: PIL.Image.Image) -> PIL.Image.Image:
            cropped = self._crop(image, rng)
            return cropped.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cropped

        return self._streamed.example("train", self._order[epoch * self._size + place], crop)


class _EvaluationExample:
    """Maps a position in a split to an example; is sent to worker processes."""

    def __init__(self, streamed: Streamed, split: str, size: int):
        self._streamed, self._split, self._size = streamed, split, size

    def __call__(self, position: int) -> dict[str, Any]:
        if position >= self._size:
            return self._streamed.padding()
        return self._streamed.example(
            self._split, int(position), lambda image: central_crop(image, self._streamed.size)
        )


def stream(name: str, options: SourceOptions | None = None) -> Streamed:
    """Opens a dataset whose images are read while it is used.

    Splits and classes are the same as with :func:`kdjax.data.load`. Mean and standard deviation are
    also the same, except that they may come from a sample. Two other things differ. With an
    ``image_size``, evaluation crops images of another size instead of distorting them. With
    ``skip_corrupt``, images that do not decode are left out when they are read, not before the
    dataset is divided.

    Mean and standard deviation of a dataset that is not well-known are computed from at most 10,000
    training images, drawn with ``split_seed`` if there are more. Labels are read once if the
    division depends on them. Both results are kept in the cache.

    Args:
      name: a TFDS dataset prepared as array_record, by name or as ``tfds:<dir>``; or
        ``folder:<dir>``.
      options: how to read it.

    Raises:
      DataError: if there is no such dataset, or it cannot be streamed, or its images differ in size
        and ``image_size`` is (0, 0).
    """
    options = options or SourceOptions()
    parts, class_names, channels = _open(name, options)
    labels = None
    if needs_labels(parts, options):
        labels = read_labels(parts["train"], name)
        check_labels(labels, f"{name}, train", len(class_names))
    sizes = {part: len(records) for part, records in parts.items()}
    for part, size in sizes.items():
        if not size:
            raise DataError(f"{name}, {part}: the split is empty")
    division = divide(name, sizes, labels, options)
    known = {"train": np.arange(len(class_names))}  # If labels are not read, all count as present.
    if labels is not None:
        cut = division.splits.items()
        known = {split: labels[rows] for split, (part, rows) in cut if part == "train"}
    check_classes(name, known["train"], class_names, options.min_classes)
    warn_of_empty_classes(name, known, class_names)
    skip, keep_sizes = options.skip_corrupt, options.image_size == (0, 0)
    shape = common_size(parts, name, skip_corrupt=skip) if keep_sizes else options.image_size
    if min(shape) < 8:
        raise DataError(
            f"{name}: images are {shape[0]} x {shape[1]} pixels; expected at least 8 x 8"
        )
    mean, std = statistics(name) or sampled_statistics(
        parts["train"],
        division.measured,
        shape,
        "L" if channels == 1 else "RGB",
        options.split_seed,
        skip_corrupt=skip,
    )
    records = {split: (parts[part], indices) for split, (part, indices) in division.splits.items()}
    return Streamed(name, records, class_names, mean, std, shape, keep_sizes, skip)


def _open(name: str, options: SourceOptions) -> Opened:
    kind, separator, location = name.partition(":")
    if kind == "folder" and separator:
        return open_folder(location, skip_corrupt=options.skip_corrupt)
    if kind == "tfds" and separator:
        return open_prepared(directory(location))
    if not separator and not is_array(name):
        return open_prepared(find_prepared(name, options.data_dir))
    check_kind(name)
    raise DataError(
        f"{name} cannot be streamed: it is held in memory anyway (config.data.memory='device')"
    )


def _check_shares(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise DataError(f"a batch of {batch_size} cannot be shared by {processes} processes")


def _parse_flags() -> None:
    # grain passes absl's flags to its workers, and requires that they have been parsed.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _unwrapped(error: Exception) -> DataError:
    """Turns the error of a thread or worker into a DataError, with the last line as the reason."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    ours = [line for line in lines if "DataError: " in line]
    text = (ours or lines or [type(error).__name__])[-1]
    return DataError(text.rpartition("DataError: ")[2])

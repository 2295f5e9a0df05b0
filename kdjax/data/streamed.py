"""Images that are read, decoded and cropped for every batch, because the set is too large to hold.

An example of a training batch depends only on the seed, the step and its place in the batch. So a
stream can start at any step, and gives the same examples with any number of processes, workers or
threads. It has no other state.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from kdjax.data.augment import TrainingCrop, central_crop
from kdjax.data.dataset import DataError, check_labels
from kdjax.data.division import SourceOptions, check_classes, divide, needs_labels
from kdjax.data.images import decode_with, sizes_differ
from kdjax.data.records import Opened, Records, open_folder, open_prepared
from kdjax.data.registry import statistics
from kdjax.data.survey import common_size, read_labels, sampled_statistics
from kdjax.data.tfds_source import directory, find

_LOGGER = logging.getLogger(__name__)

# How many steps a stream can give; more than any run takes.
_STEPS = 1 << 40


class HostBatch(NamedTuple):
    """One process's rows of a global batch.

    Attributes:
      images: ``[rows, height, width, channels]`` uint8, cropped and flipped.
      labels: ``[rows]`` int32.
      mask: ``[rows]`` bool, False for padding and for examples that were left out.
      indices: ``[rows]`` int32, the numbers of the examples in their split; of padding 0.
    """

    images: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A named set whose images are not held in memory.

    Attributes:
      name: as asked for.
      records: of each split: where it is read from, and the number of each example's record.
      class_names: one per class, in label order.
      mean, std: per channel, of pixel values in [0, 1], for normalisation.
      size: (height, width) of the crops.
      keep_sizes: whether all images must have that size; then another size is an error.
      skip_corrupt: whether examples that do not decode are left out instead of raised.
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
        """Examples of each split."""
        return {split: len(indices) for split, (_, indices) in self.records.items()}

    def fingerprint(self) -> str:
        """A digest of names and sizes of all files, of the splits and of the crops' size.

        Contents are not read: that would take as long as an epoch.
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
        threads: int = 16,
    ) -> Iterator[HostBatch]:
        """Training batches without end, from a step on.

        Every epoch has each training example once, in a new order; its last batch is padded. A
        process gets every ``processes``-th row of the batch, starting with row ``process``.

        Args:
          seed: for order, crops and flips; below 2**31.
          first_step: the step of the run to start at.
          batch_size: of all processes together; a multiple of their number.
          flip: whether half of the images are flipped left to right.
          resized_crop: whether to take a random part of each image, resized; else it is cropped
            as in evaluation, and then moved.
          crop_padding: by how many pixels an image is moved at most, in height and in width,
            without ``resized_crop``; pixels from outside the image are 0.
          process: which one this is, from 0.
          processes: how many there are.
          workers: how many processes decode; 0: threads of this process do. The results are equal.
          threads: how many threads decode if there are no workers.
        """
        _check_shares(batch_size, processes)
        size = len(self.records["train"][1])
        steps_per_epoch = -(-size // batch_size)
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
        threads: int = 16,
    ) -> Iterator[HostBatch]:
        """The examples of a split in order, centrally cropped; the last batch is padded.

        Args:
          split: ``train``, ``validation`` or ``test``.
          batch_size: of all processes together; a multiple of their number.
          process: which one this is, from 0.
          processes: how many there are.
          workers: how many processes decode; 0: threads of this process do.
          threads: how many threads decode if there are no workers.
        """
        _check_shares(batch_size, processes)
        size = len(self.records[split][1])
        example = _EvaluationExample(self, split, size)
        positions = (process, -(-size // batch_size) * batch_size, processes)
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
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * rows)
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
                # Copied, because memory that is shared with a worker is freed when it ends.
                yield HostBatch(*(np.array(batch[name]) for name in HostBatch._fields))
                del batch
        finally:
            iterator.close()

    def example(
        self, split: str, index: int, crop: Callable[[PIL.Image.Image], PIL.Image.Image]
    ) -> dict[str, Any]:
        """One example of a split, cropped.

        Args:
          split: ``train``, ``validation`` or ``test``.
          index: of the example in its split, from 0.
          crop: image -> image of the set's size.

        Returns:
          ``images`` ``[height, width, channels]`` uint8, and the scalars ``labels`` int32, ``mask``
          bool and ``indices`` int32.

        Raises:
          DataError: if it cannot be read or decoded (unless ``skip_corrupt``), if its label is out
            of range, or if it does not have the size that all images must have.
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
        """What fills a row that has no example."""
        return _row(np.zeros(self.image_shape, np.uint8), 0, False, 0)


def _row(image: np.ndarray, label: int, real: bool, index: int) -> dict[str, Any]:
    """The parts of a :class:`HostBatch` for one example."""
    scalars = {"labels": np.int32(label), "mask": np.bool_(real), "indices": np.int32(index)}
    return {"images": image, **scalars}


class _TrainExample:
    """Position in the run -> example; is sent to worker processes."""

    def __init__(
        self, streamed: Streamed, seed: int, size: int, padded: int, crop: Any, flip: bool
    ):
        import grain

        self._streamed, self._seed = streamed, seed
        self._size, self._padded = size, padded
        self._crop, self._flip = crop, flip
        # grain computes the place of each index, so no array as large as the set is needed.
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
    """Position in a split -> example; is sent to worker processes."""

    def __init__(self, streamed: Streamed, split: str, size: int):
        self._streamed, self._split, self._size = streamed, split, size

    def __call__(self, position: int) -> dict[str, Any]:
        if position >= self._size:
            return self._streamed.padding()
        return self._streamed.example(
            self._split, int(position), lambda image: central_crop(image, self._streamed.size)
        )


def stream(name: str, options: SourceOptions | None = None) -> Streamed:
    """A set that is read while it is used.

    It has the same splits and classes as with :func:`kdjax.data.load`, and the same mean and
    deviation, except that these may come from a sample. Two things differ. With an ``image_size``,
    evaluation crops images of another size instead of distorting them. With ``skip_corrupt``,
    images that do not decode are left out when they are read, not before the set is divided.

    Mean and deviation of a set that is not well-known are computed from at most 10,000 training
    images, drawn by ``split_seed`` if there are more. Labels are read once if the division depends
    on them. Both are kept in the cache.

    Args:
      name: a TFDS set prepared as array_record, by name or as ``tfds:<dir>``, or ``folder:<dir>``.
      options: how to read it.

    Raises:
      DataError: if there is no such set, or it cannot be streamed, or its images differ in size
        and ``image_size`` is (0, 0).
    """
    options = options or SourceOptions()
    parts, class_names, channels = _open(name, options)
    labels = None
    if needs_labels(parts, options):
        labels = read_labels(parts["train"], name)
        check_labels(labels, f"{name}, train", len(class_names))
    check_classes(name, labels, class_names, options.min_classes)
    sizes = {part: len(records) for part, records in parts.items()}
    for part, size in sizes.items():
        if not size:
            raise DataError(f"{name}, {part}: the split is empty")
    division = divide(name, sizes, labels, options)
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
    if not separator and name != "digits":
        return open_prepared(find(name, options.data_dir))
    raise DataError(
        f"{name} cannot be streamed: it is held in memory anyway (config.data.memory='device')"
    )


def _check_shares(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise DataError(f"a batch of {batch_size} cannot be shared by {processes} processes")


def _parse_flags() -> None:
    # grain hands absl's flags to its workers, and insists that they have been parsed.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _unwrapped(error: Exception) -> DataError:
    """The error of a thread or worker; the last line of the text that it sends has the reason."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    ours = [line for line in lines if "DataError: " in line]
    text = (ours or lines or [type(error).__name__])[-1]
    return DataError(text.rpartition("DataError: ")[2])

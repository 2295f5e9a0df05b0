"""Feeds: they bring batches to the compiled step, from device memory or from disk."""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import chex
import jax
import numpy as np

from kdjax.data.batches import Batch, Batches, DeviceData, normalize
from kdjax.data.dataset import batches_of
from kdjax.data.streamed import HostBatch, Streamed
from kdjax.train.devices import processes
from kdjax.train.devices.parallel import Parallel
from kdjax.train.program.state import TrainState

# The most bytes of images that a process gives one dispatch of a stream, unless a single step has
# more.
_LARGEST_CHUNK = 256 << 20
# The number of chunks on the devices besides the one in use: the next one, and one being copied.
_AHEAD = 2


class Feed(Protocol):
    """Where a runner's batches come from.

    Attributes:
      data: what stays on the devices; it is an argument of every compiled call.
      sizes: the number of examples in each split, ``train``, ``validation`` and ``test``.
      batch_size: examples in a batch, over all devices.
      image_shape: (height, width, channels) as the networks see them.
    """

    data: Any
    sizes: Mapping[str, int]
    batch_size: int
    image_shape: tuple[int, int, int]

    def most_steps(self, wanted: int) -> int:
        """The most steps that a dispatch may have, if ``wanted`` are asked for."""
        ...

    def epoch(self, state: TrainState, step: int, steps: int) -> Iterator[Any]:
        """Yields the input of each dispatch, up to the end of an epoch.

        Args:
          state: the run's state, on the devices.
          step: the first step, counted from the start of the run.
          steps: how many steps a dispatch has.
        """
        ...

    def close(self) -> None:
        """Ends what reads ahead and lets go of what it has read; :meth:`epoch` starts anew."""
        ...

    def train_batch(
        self,
        data: Any,
        given: Any,
        key: chex.PRNGKey,
        step: chex.Array,
        device: chex.Numeric,
    ) -> Batch:
        """The device's share of a training batch; traced.

        Args:
          data: :attr:`data`, on the devices.
          given: an item from :meth:`epoch`.
          key: the run's random key.
          step: an integer scalar, the training step, counted from the start of the run.
          device: the number of this device, from 0.
        """
        ...

    def evaluation_inputs(self, split: str, limit: int) -> Iterator[Any]:
        """Yields evaluation inputs; together they cover the first ``limit`` examples of a split."""
        ...

    def evaluation_batch(self, data: Any, given: Any, device: chex.Numeric) -> Batch:
        """The device's share of a batch for evaluation; traced.

        Args:
          data: :attr:`data`, on the devices.
          given: an item from :meth:`evaluation_inputs`.
          device: the number of this device, from 0.
        """
        ...


def steps_per_epoch(feed: Feed) -> int:
    """The number of training steps in one epoch; the last batch may be short."""
    return batches_of(feed.sizes["train"], feed.batch_size)


class Resident:
    """A feed with the whole dataset on every device; the step itself cuts and augments batches."""

    def __init__(
        self,
        data: DeviceData,
        bounds: Mapping[str, tuple[int, int]],
        batches: Batches,
        evaluation_batches: Batches,
        parallel: Parallel,
    ):
        """Copies ``data`` from the host to the devices; ``bounds`` says where each split lies."""
        self.data = parallel.replicate(data)
        self.sizes: Mapping[str, int] = {
            split: stop - start for split, (start, stop) in bounds.items()
        }
        self.batch_size = batches.batch_size
        self.image_shape = batches.image_shape
        self._bounds = bounds
        self._batches, self._evaluation_batches = batches, evaluation_batches
        self._scalar: Callable[[int], Any] = lambda value: parallel.replicate(np.int32(value))
        self._order = parallel.compile(lambda state, epoch: batches.epoch_order(state.key, epoch))

    def most_steps(self, wanted: int) -> int:
        return wanted

    def epoch(self, state: TrainState, step: int, steps: int) -> Iterator[Any]:
        """Yields the order of the epoch's examples, the same for every dispatch.

        Args:
          state: the run's state; its key decides the order.
          step: a step of the epoch, counted from the start of the run.
          steps: not used: the compiled step finds its place in the order by itself.
        """
        del steps
        return itertools.repeat(self._order(state, self._scalar(step // steps_per_epoch(self))))

    def close(self) -> None:
        """Does nothing: nothing is read ahead."""

    def train_batch(self, data, given, key, step, device) -> Batch:
        """The device's share of a training batch; traced.

        Args:
          data: all splits, on the device.
          given: the order of the epoch's examples, from :meth:`epoch`.
          key: the run's random key.
          step: an integer scalar, the training step, counted from the start of the run.
          device: the number of this device, from 0.
        """
        return self._batches.train_batch(data, given, key, step, device)

    def evaluation_inputs(self, split: str, limit: int) -> Iterator[Any]:
        start, end = self._bounds[split]
        stop = min(end, start + limit)
        placed = self._scalar(stop)
        for first in range(start, stop, self._evaluation_batch_size):
            yield self._scalar(first), placed

    @property
    def _evaluation_batch_size(self) -> int:
        return self._evaluation_batches.batch_size

    def evaluation_batch(self, data, given, device) -> Batch:
        """The device's share of a batch for evaluation; traced.

        Args:
          data: all splits, on the device.
          given: (start, stop) from :meth:`evaluation_inputs`, positions in ``data``.
          device: the number of this device, from 0.
        """
        start, stop = given
        return self._evaluation_batches.evaluation_batch(data, start, stop, device)


class Streaming:
    """A feed that reads, decodes and crops images for every batch; each process reads its own rows.

    The stream's only state is the step, so it can start at any step with any number of processes.
    """

    data = ()

    def __init__(
        self,
        streamed: Streamed,
        parallel: Parallel,
        *,
        batch_size: int,
        evaluation_batch_size: int,
        flip: bool,
        resized_crop: bool,
        crop_padding: int,
        workers: int,
        threads: int,
    ):
        """Reads nothing yet.

        The arguments are those of ``train_batches`` and ``evaluation_batches`` of
        :class:`kdjax.data.Streamed`.
        """
        self.sizes: Mapping[str, int] = streamed.sizes
        self.batch_size = batch_size
        self.image_shape = streamed.image_shape
        self._streamed, self._parallel = streamed, parallel
        self._evaluation_batch_size = evaluation_batch_size
        self._training: dict[str, Any] = {
            "flip": flip,
            "resized_crop": resized_crop,
            "crop_padding": crop_padding,
        }
        self._reading: dict[str, Any] = {
            "process": processes.index(),
            "processes": processes.count(),
            "workers": workers,
            "threads": threads,
        }
        self._open: Iterator[Any] | None = None
        self._place: tuple[int, int, int] = (-1, -1, -1)

    def most_steps(self, wanted: int) -> int:
        image_bytes = int(np.prod(self._streamed.image_shape))
        own = self.batch_size // processes.count() * image_bytes
        return max(1, min(wanted, _LARGEST_CHUNK // own))

    def epoch(self, state: TrainState, step: int, steps: int) -> Iterator[Any]:
        """Yields chunks of batches; continues the open stream if it is at the right place.

        Args:
          state: the run's state; its key is the seed of the stream.
          step: the first step, counted from the start of the run.
          steps: how many steps a chunk has.
        """
        seed = _seed(self._parallel.unreplicate(state.key))
        if self._place != (seed, step, steps):
            self.close()
            self._open = self._ahead(self._chunks(seed, step, steps))
        assert self._open is not None
        done, size = step, steps_per_epoch(self)
        end = (step // size + 1) * size
        while done < end:
            chunk = next(self._open)
            done = min(done + steps, end)
            self._place = (seed, done, steps)
            yield chunk

    def close(self) -> None:
        """Ends the stream's readers and lets go of the chunks that they have read ahead."""
        if self._open is not None:
            self._open.close()  # type: ignore[attr-defined]
        self._open, self._place = None, (-1, -1, -1)

    def _chunks(self, seed: int, step: int, steps: int) -> Iterator[Any]:
        """Yields chunks of up to ``steps`` batches, on the devices; no chunk spans two epochs."""
        rows = self._streamed.train_batches(
            seed=seed,
            first_step=step,
            batch_size=self.batch_size,
            **self._training,
            **self._reading,
        )
        size = steps_per_epoch(self)
        while True:
            taken = min(steps, size - step % size)
            chunk = [next(rows) for _ in range(taken)]
            nothing = HostBatch(*(np.zeros_like(leaf) for leaf in chunk[0]))
            chunk += [nothing] * (steps - taken)
            stacked = HostBatch(*(np.stack(leaves) for leaves in zip(*chunk, strict=True)))
            yield self._parallel.scatter(stacked, axis=1), self._parallel.replicate(np.int32(step))
            step += taken

    def _ahead(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """Yields the same chunks, but starts copying the next ones to the devices early."""
        waiting: collections.deque[Any] = collections.deque()
        try:
            for chunk in chunks:
                waiting.append(chunk)
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
            yield from waiting
        finally:
            chunks.close()  # type: ignore[attr-defined]

    def train_batch(self, data, given, key, step, device) -> Batch:
        """The device's share of a training batch; traced.

        Args:
          data: not used.
          given: a chunk from :meth:`epoch` and the step of its first batch.
          key: not used: the images are augmented when they are read.
          step: an integer scalar, the training step, counted from the start of the run.
          device: not used: the chunk holds this device's rows.
        """
        del data, key, device
        chunk, first = given
        batch = jax.tree.map(lambda leaf: leaf[step - first], chunk)
        return Batch(self._normalize(batch.images), batch.labels, batch.mask, batch.indices)

    def evaluation_inputs(self, split: str, limit: int) -> Iterator[Any]:
        size = self._evaluation_batch_size
        batches = self._streamed.evaluation_batches(split, batch_size=size, **self._reading)
        for batch in itertools.islice(batches, batches_of(limit, size)):
            yield self._parallel.scatter(batch, axis=0)

    def evaluation_batch(self, data, given, device) -> Batch:
        """The device's share of a batch for evaluation; traced.

        Args:
          data: not used.
          given: this device's rows of a batch from :meth:`evaluation_inputs`.
          device: not used.
        """
        del data, device
        return Batch(self._normalize(given.images), given.labels, given.mask)

    def _normalize(self, images: chex.Array) -> chex.Array:
        return normalize(images, self._streamed.mean, self._streamed.std)


def _seed(key: np.ndarray) -> int:
    """A run's key as one integer below 2**31, the range of seeds that grain accepts."""
    return int(np.random.SeedSequence([int(word) for word in key]).generate_state(1)[0]) >> 1

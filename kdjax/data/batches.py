"""Batches made on the device: order, gathering, augmentation and normalisation, all inside jit.

The whole dataset is on the device as uint8, with one row per image. In this layout a TPU can read
single images. With ``[n, height, width, channels]``, a TPU stores the pixels of many images side by
side, and would copy the whole dataset into another layout at every call.

A batch depends only on the run's key and the step, so a resumed run sees the same batches as an
uninterrupted one. Random numbers are drawn for the global batch, and each device uses those of its
own examples, so the batches do not depend on the number of devices either.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data.dataset import Dataset, batches_of


class DeviceData(NamedTuple):
    """The images and labels of all splits, one split after another.

    Attributes:
      images: ``[n, height * width * channels]`` uint8.
      labels: ``[n]`` int32.
    """

    images: chex.Array
    labels: chex.Array


class Batch(NamedTuple):
    """One device's share of a batch.

    Attributes:
      images: ``[batch, height, width, channels]`` float32, normalised.
      labels: ``[batch]`` int32, or ``[batch, classes]`` float32 distributions if images are mixed.
      mask: ``[batch]`` bool, False for padding.
      indices: ``[batch]`` int32, the index of each example in the training split. It is the same in
        every epoch and on any number of devices; 0 for padding. None in evaluation.
    """

    images: chex.Array
    labels: chex.Array
    mask: chex.Array
    indices: chex.Array | None = None


def device_data(dataset: Dataset) -> tuple[DeviceData, dict[str, tuple[int, int]]]:
    """Returns all splits as one pair of host arrays, and each split's (start, stop) in them."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    bounds = np.cumsum([0] + [len(split) for split in splits.values()]).tolist()
    images = np.concatenate([split.images for split in splits.values()])
    data = DeviceData(
        images.reshape(len(images), math.prod(dataset.image_shape)),
        np.concatenate([split.labels for split in splits.values()]),
    )
    return data, dict(zip(splits, itertools.pairwise(bounds), strict=True))


@dataclasses.dataclass(frozen=True)
class Batches:
    """Makes batches from the device data and augments them; the methods are traced.

    Attributes:
      train_size: the number of training examples, which come first in the device data.
      batch_size: examples in a batch, over all devices.
      devices: the number of devices that share a batch.
      image_shape: (height, width, channels).
      mean, std: per channel, of pixel values in [0, 1].
      crop_padding: pixels of zeros around a training image before a random crop.
      flip: whether half of the training images are flipped left to right.
    """

    train_size: int
    batch_size: int
    devices: int
    image_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    crop_padding: int = 0
    flip: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return batches_of(self.train_size, self.batch_size)

    def epoch_order(self, key: chex.PRNGKey, epoch: chex.Array) -> chex.Array:
        """A permutation of train, ``[steps_per_epoch * batch_size]`` int32, padded with 0."""
        order_key, _ = jax.random.split(key)
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), self.train_size)
        padding = self.steps_per_epoch * self.batch_size - self.train_size
        return jnp.pad(order.astype(jnp.int32), (0, padding))

    def train_batch(
        self,
        data: DeviceData,
        order: chex.Array,
        key: chex.PRNGKey,
        step: chex.Array,
        device: chex.Numeric,
    ) -> Batch:
        """Returns this device's share of a training batch.

        Args:
          data: all splits, train first.
          order: ``[steps_per_epoch * batch_size]`` int32 from :meth:`epoch_order`, for this epoch.
          key: the run's key.
          step: an integer scalar, the training step, counted from the start of the run.
          device: the number of this device, from 0.
        """
        rows = self._rows(device)
        positions = (step % self.steps_per_epoch) * self.batch_size + rows
        _, augmentation_key = jax.random.split(key)
        key_crop, key_flip = jax.random.split(jax.random.fold_in(augmentation_key, step))
        pad = self.crop_padding
        offsets = jax.random.randint(key_crop, (self.batch_size, 2), -pad, pad + 1, jnp.int32)
        flips = jax.random.bernoulli(key_flip, jnp.float32(0.5), (self.batch_size,)) & self.flip
        indices = order[positions]
        images = crop_and_flip(self._images(data, indices), offsets[rows], flips[rows])
        real = positions < self.train_size
        return Batch(self._normalize(images), data.labels[indices], real, indices)

    def evaluation_batch(
        self, data: DeviceData, start: chex.Array, stop: chex.Array, device: chex.Numeric
    ) -> Batch:
        """Returns this device's share of an evaluation batch, in order and not augmented.

        Args:
          data: all splits.
          start: an integer scalar, the first example of the batch in ``data``.
          stop: an integer scalar, the end of the split; examples from there on are masked.
          device: the number of this device, from 0.
        """
        positions = start + self._rows(device)
        indices = jnp.minimum(positions, data.labels.shape[0] - 1)
        images = self._normalize(self._images(data, indices))
        return Batch(images, data.labels[indices], positions < stop)

    def _images(self, data: DeviceData, indices: chex.Array) -> chex.Array:
        return data.images[indices].reshape(-1, *self.image_shape)

    def _rows(self, device: chex.Numeric) -> chex.Array:
        # The devices take rows in turn, so that the padding of a last batch is spread over them.
        return jnp.arange(self.batch_size // self.devices) * self.devices + device

    def _normalize(self, images: chex.Array) -> chex.Array:
        return normalize(images, self.mean, self.std)


def normalize(images: chex.Array, mean: Sequence[float], std: Sequence[float]) -> chex.Array:
    """``(images / 255 - mean) / std`` in float32.

    Args:
      images: ``[..., channels]`` uint8.
      mean: per channel, of pixel values in [0, 1].
      std: as ``mean``.
    """
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def crop_and_flip(images: chex.Array, offsets: chex.Array, flips: chex.Array) -> chex.Array:
    """Shifts images, and flips some of them; pixels from outside an image are 0.

    The result is the same as padding with zeros, cropping at ``padding + offset`` and flipping, but
    it takes only one gather.

    Args:
      images: ``[batch, height, width, channels]`` uint8.
      offsets: ``[batch, 2]`` int, the crop's top-left corner relative to the image's.
      flips: ``[batch]`` bool.

    Returns:
      ``[batch, height, width, channels]`` uint8.
    """
    batch, height, width, _ = images.shape
    columns = jnp.arange(width)
    columns = jnp.where(flips[:, None], columns[::-1], columns) + offsets[:, 1:]
    rows = jnp.arange(height) + offsets[:, :1]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    numbers = jnp.arange(batch)[:, None, None]
    taken = images[numbers, rows[:, :, None], columns[:, None, :]]
    return jnp.where(inside[..., None], taken, 0)

"""Stand-ins for datasets that have only their shapes, which is all a program depends on."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from kdjax import data
from kdjax.data.batches import DeviceData
from kdjax.data.streamed import HostBatch


@dataclasses.dataclass(frozen=True)
class DataShape:
    """The shapes of a dataset, which a compiled step depends on.

    Attributes:
      sizes: the number of examples in each of ``train``, ``validation`` and ``test``.
      image_shape: (height, width, channels).
      classes: the number of classes.
      streamed: whether batches come from disk instead of the devices' memory.
    """

    sizes: Mapping[str, int]
    image_shape: tuple[int, int, int]
    classes: int
    streamed: bool = False

    @classmethod
    def of(cls, dataset: data.Dataset | data.Streamed) -> "DataShape":
        """Returns the shapes of an existing dataset."""
        return cls(
            dataset.sizes,
            dataset.image_shape,
            dataset.num_classes,
            isinstance(dataset, data.Streamed),
        )

    def dataset(self) -> data.Dataset | data.Streamed:
        """Returns a dataset of zeros that takes no memory."""
        names = tuple(str(number) for number in range(self.classes))
        middle = (0.5,) * self.image_shape[2]
        if self.streamed:
            records: Mapping[str, Any] = {
                split: (None, _zeros(np.int64, size)) for split, size in self.sizes.items()
            }
            return _Stream("planned", records, names, middle, middle, self.image_shape[:2])
        splits = {
            split: data.Split(_zeros(np.uint8, size, *self.image_shape), _zeros(np.int32, size))
            for split, size in self.sizes.items()
        }
        return data.Dataset("planned", **splits, class_names=names, mean=middle, std=middle)

    def on_devices(self) -> tuple[DeviceData, dict[str, tuple[int, int]]]:
        """Returns the shapes of :func:`kdjax.data.batches.device_data`.

        The second result says where each split starts and stops in the arrays.
        """
        stops = [0, *itertools.accumulate(self.sizes.values())]
        shapes = DeviceData(
            jax.ShapeDtypeStruct((stops[-1], math.prod(self.image_shape)), np.uint8),
            jax.ShapeDtypeStruct((stops[-1],), np.int32),
        )
        return shapes, dict(zip(self.sizes, itertools.pairwise(stops), strict=True))


class _Stream(data.Streamed):
    """A stream of black images."""

    def train_batches(self, *, batch_size: int, **_: Any) -> Iterator[HostBatch]:
        images = _zeros(np.uint8, batch_size, *self.image_shape)
        numbers = _zeros(np.int32, batch_size)
        batch = HostBatch(images, numbers, _zeros(np.bool_, batch_size), numbers)
        return itertools.repeat(batch)


def _zeros(dtype: Any, *shape: int) -> np.ndarray:
    return np.broadcast_to(np.zeros((), dtype), shape)

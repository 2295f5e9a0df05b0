"""Devices that are not there: their arrays are only shapes, and programs are only compiled."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kdjax.train.devices.parallel import Parallel


@dataclasses.dataclass(frozen=True)
class AbsentParallel(Parallel):
    """:class:`Parallel` over the devices of a topology.

    Every array that would be put on a device becomes a ``jax.ShapeDtypeStruct``. A call of a
    compiled function returns the shapes of its results. ``lower`` returns the program for the
    absent devices.
    """

    @property
    def local_devices(self) -> tuple[jax.Device, ...]:
        """All devices, because a single process is planned."""
        return self.devices

    def compile(self, function: Callable[..., Any], *, donate: Sequence[int] = ()) -> Any:
        """Returns a function that can be lowered, and called with shapes.

        Args:
          function: as in :meth:`Parallel.compile`.
          donate: positions of the donated arguments.
        """
        return _Absent(super().compile(function, donate=donate), self)

    def replicate(self, tree: Any) -> Any:
        """Returns the shapes of equal copies on every device."""
        return jax.tree.map(lambda leaf: self._struct(self.stacked_shape(leaf.shape), leaf), tree)

    def scatter(self, tree: Any, axis: int) -> Any:
        """Returns the shapes of rows that are distributed over the devices.

        Args:
          tree: arrays whose rows lie along ``axis``.
          axis: the axis of the rows.
        """

        def deal(leaf: Any) -> jax.ShapeDtypeStruct:
            rows = leaf.shape[axis] // len(self.devices)
            shape = (*leaf.shape[:axis], rows, *leaf.shape[axis + 1 :])
            return self._struct(self.stacked_shape(shape), leaf)

        return jax.tree.map(deal, tree)

    def unreplicate(self, tree: Any) -> Any:
        """Returns zeros with the shapes of one copy."""
        skipped = int(self.axis_name is not None)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape[skipped:], leaf.dtype), tree)

    def device_bytes(self, tree: Any) -> int:
        """Bytes that arrays of these shapes take on one device."""
        total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        return total // len(self.devices)

    def _struct(self, shape: tuple[int, ...], like: Any) -> jax.ShapeDtypeStruct:
        # With several devices, pmap sets the sharding of its arguments by itself.
        one = jax.sharding.SingleDeviceSharding(self.devices[0])
        sharding = one if self.axis_name is None else None
        return jax.ShapeDtypeStruct(shape, like.dtype, sharding=sharding)


class _Absent:
    """A function compiled for absent devices."""

    def __init__(self, compiled: Any, parallel: AbsentParallel):
        self._compiled, self._parallel = compiled, parallel

    def __call__(self, *arguments: Any) -> Any:
        shapes = jax.eval_shape(self._compiled, *arguments)
        return jax.tree.map(lambda leaf: self._parallel._struct(leaf.shape, leaf), shapes)

    def lower(self, *arguments: Any) -> Any:
        if self._parallel.axis_name is not None:
            return self._compiled.lower(*arguments)
        platform = self._parallel.devices[0].platform
        name = "cuda" if platform == "gpu" else platform
        return self._compiled.trace(*arguments).lower(lowering_platforms=(name,))

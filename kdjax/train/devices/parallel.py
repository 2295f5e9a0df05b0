"""Devices: functions compiled for one device or for many, and arrays that they take."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chex
import jax
import numpy as np

AXIS = "devices"

_AHEAD = 8  # How many results may be on their way at once; more could fill the devices' memory.


@dataclasses.dataclass(frozen=True)
class Parallel:
    """A set of devices that hold equal copies of the state and share each batch.

    On one device, functions are compiled with plain ``jit``. On several, they are compiled with
    ``pmap``: every array that goes in or out has a leading axis over this process's devices, and
    inside the function, :data:`AXIS` is the mapped axis over the devices of all processes.

    ``pmap`` keeps batch statistics, padding and memories per device explicit, with one function for
    one device and many. JAX recommends ``shard_map`` for new code; that would change this class and
    its stand-in for absent devices (:mod:`kdjax.plan.absent`).
    """

    devices: tuple[jax.Device, ...]

    @property
    def axis_name(self) -> str | None:
        """The axis name for collectives; None on one device, which needs no collectives."""
        return AXIS if len(self.devices) > 1 else None

    @property
    def local_devices(self) -> tuple[jax.Device, ...]:
        """The devices of this process."""
        here = jax.process_index()
        return tuple(device for device in self.devices if device.process_index == here)

    def device_index(self) -> chex.Numeric:
        """This device's number, inside a compiled function."""
        return jax.lax.axis_index(AXIS) if self.axis_name else 0

    def compile(self, function: Callable[..., Any], *, donate: Sequence[int] = ()) -> Any:
        """Compiles ``function`` for the devices; ``donate`` lists the arguments to donate."""
        if self.axis_name is None:
            return jax.jit(function, donate_argnums=tuple(donate))
        return jax.pmap(
            function, axis_name=AXIS, devices=self.devices, donate_argnums=tuple(donate)
        )

    def stacked_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of this process's copies, or shares, of an array: one for each device."""
        return shape if self.axis_name is None else (len(self.local_devices), *shape)

    def replicate(self, tree: Any) -> Any:
        """Copies host arrays to every device."""
        if self.axis_name is None:
            return jax.device_put(tree, self.devices[0])
        sharding = self._sharding

        def copy(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            stacked = np.broadcast_to(leaf, self.stacked_shape(leaf.shape))
            return jax.device_put(stacked, sharding)

        return jax.tree.map(copy, tree)

    def scatter(self, tree: Any, axis: int) -> Any:
        """Deals the rows of host arrays, along ``axis``, in turn to the devices of this process."""
        if self.axis_name is None:
            return jax.device_put(tree, self.devices[0])
        count = len(self.local_devices)

        def deal(leaf: np.ndarray) -> jax.Array:
            shape = (*leaf.shape[:axis], leaf.shape[axis] // count, count, *leaf.shape[axis + 1 :])
            return jax.device_put(np.moveaxis(leaf.reshape(shape), axis + 1, 0), self._sharding)

        return jax.tree.map(deal, tree)

    @functools.cached_property
    def _sharding(self) -> jax.sharding.NamedSharding:
        mesh = jax.sharding.Mesh(np.array(self.local_devices), (AXIS,))
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def start_max(self, flag: int) -> Any:
        """Starts to compute the largest flag of all processes; :meth:`read_max` waits for it."""
        if jax.process_count() == 1:
            return flag
        return self._largest(self.replicate(np.int32(flag)))

    @functools.cached_property
    def _largest(self) -> Any:
        return self.compile(lambda flag: jax.lax.pmax(flag, AXIS))

    def read_max(self, answer: Any) -> int:
        """Waits for the result of :meth:`start_max` and returns it."""
        return answer if isinstance(answer, int) else int(self.unreplicate(answer))

    def unreplicate(self, tree: Any) -> Any:
        """Returns one copy as new host arrays, which no later donation can change."""
        if self.axis_name is not None:
            tree = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)
        return jax.tree.map(lambda leaf: np.array(leaf, copy=True), jax.device_get(tree))

    def fetched(self, results: Iterable[Any]) -> Iterator[Any]:
        """Yields :meth:`unreplicate` of each result, while later ones are computed.

        Args:
          results: what compiled functions return; taken a few ahead of what is yielded.
        """
        pending: collections.deque[Any] = collections.deque()
        for result in results:
            pending.append(result)
            if len(pending) > _AHEAD:
                yield self.unreplicate(pending.popleft())
        while pending:
            yield self.unreplicate(pending.popleft())


def choose(count: int = 0) -> Parallel:
    """The first ``count`` devices; 0 means all.

    Raises:
      ValueError: if there are fewer devices, or if several processes are to use only some of them.
    """
    devices = jax.devices()
    if jax.process_count() > 1 and count not in (0, len(devices)):
        raise ValueError(
            f"config.compute.devices is {count}: {jax.process_count()} processes use all "
            f"their {len(devices)} devices; set it to 0"
        )
    if count > len(devices):
        raise ValueError(
            f"config.compute.devices is {count}: there are {len(devices)} ({devices[0].platform})"
        )
    return Parallel(tuple(devices[: count or len(devices)]))

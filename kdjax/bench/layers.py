"""`kdjax bench --layers`: measures how long each layer of a network takes, at several widths.

Each layer is compiled and run by itself on one batch. The time of calling an empty program is
subtracted. Four numbers, none of them negative, are fitted to the times at several widths: a fixed
time, a time per channel read, a time per channel written, and a time per pair of a channel read and
a channel written. A single layer's time does not include normalisation and activations, or what the
compiler gains by merging layers. So all times are scaled by one factor, which makes their sum at
full width equal to the measured time of the whole network.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import atomic, models, tracing
from kdjax.bench.run import environment
from kdjax.records import check_output
from kdjax.search.latency import KIND
from kdjax.tracing import Layer

# A layer is timed with these shares of the channels that it reads and writes.
_SHARES = ((1, 1), (1, 0.5), (0.5, 1), (0.5, 0.5), (0.25, 1), (1, 0.25), (0.25, 0.25), (0.1, 0.1))
_DTYPES = ("float32", "bfloat16")
_LEAST_SECONDS = 2e-3  # One measurement lasts about this long; fast programs run several times.


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What to measure.

    Attributes:
      network, width: the network's name, and the factor of all its widths.
      classes, channels: the numbers of classes and channels of the generated images.
      image_size: the images' height and width in pixels.
      batch_size: images in a batch.
      dtype: ``float32`` or ``bfloat16``.
      rounds: how often each program is measured; the median is used.
    """

    network: str
    width: float = 1.0
    classes: int = 10
    image_size: tuple[int, int] = (32, 32)
    channels: int = 3
    batch_size: int = 1
    dtype: str = "float32"
    rounds: int = 5


def bench_layers(
    settings: LayerSettings, path: Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measures all layers, writes the table that a search reads, and returns the table.

    Args:
      settings: what to measure.
      path: the file to write; a file that `kdjax bench --layers` wrote before is replaced.
      say: called with progress messages.

    Raises:
      ValueError: for bad settings, if a layer cannot be timed, or if something else wrote the file.
    """
    check_output(path, KIND)
    _check(settings)
    architecture = models.create(settings.network, settings.classes, width=settings.width)
    shape = (*settings.image_size, settings.channels)
    traced = tracing.trace_architecture(architecture, shape)
    for layer in traced.layers:
        if layer.operation is None:
            raise ValueError(
                f"{'/'.join(layer.path)} multiplies computed arrays: it cannot be timed"
            )
    timer = _Timer(settings)
    say(f"the whole network, {settings.network}")
    whole = timer.network(architecture.build(dtype=settings.dtype), shape)
    rows = []
    for number, layer in enumerate(traced.layers, start=1):
        say(f"[{number}/{len(traced.layers)}] {'/'.join(layer.path)}")
        rows.append(_row(layer, timer))
    factor = whole / sum(row["microseconds"] for row in rows)
    for row in rows:
        row["coefficients"] = [factor * number for number in row["coefficients"]]
        row["share"] = row["microseconds"] * factor / whole
    record = {
        "kind": KIND,
        "environment": environment() | {"device": jax.devices()[0].device_kind},
        "network": settings.network,
        "widths": dict(architecture.widths),
        "classes": settings.classes,
        "image_shape": list(shape),
        "batch_size": settings.batch_size,
        "dtype": settings.dtype,
        "microseconds": whole,
        "factor": factor,
        "layers": rows,
    }
    atomic.write_json(path, record)
    return record


def _check(settings: LayerSettings) -> None:
    """Raises ValueError, with the name of the option, for settings that are not allowed."""
    for option, value, least in (
        ("batch", settings.batch_size, 1),
        ("rounds", settings.rounds, 1),
        ("image_size", min(settings.image_size), 8),
        ("classes", settings.classes, 2),
    ):
        if value < least:
            raise ValueError(f"--{option} is {value}: at least {least}")
    if settings.channels not in (1, 3):
        raise ValueError(f"--image_channels is {settings.channels}: 1 or 3")
    if settings.dtype not in _DTYPES:
        raise ValueError(f"--dtype is {settings.dtype}: one of {', '.join(_DTYPES)}")


def time_network(settings: LayerSettings, widths: Mapping[str, int]) -> float:
    """Returns the microseconds of one batch through the network with the given widths.

    The time is measured in the same way as that of the whole network in the table.
    """
    architecture = models.create(settings.network, settings.classes, width=settings.width)
    shape = (*settings.image_size, settings.channels)
    return _Timer(settings).network(
        architecture.build(architecture.check(widths), dtype=settings.dtype), shape
    )


def _row(layer: Layer, timer: "_Timer") -> dict[str, Any]:
    """A layer's times at several widths, and the four numbers fitted to them."""
    assert layer.operation is not None
    # A dense layer that reads or writes several axes has several values for each channel.
    per_read = layer.operation.x[layer.operation.feature] / len(layer.reads)
    per_written = layer.operation.kernel[layer.operation.out] / len(layer.writes)
    points: list[tuple[float, float, float]] = []
    for read, written in _SHARES:
        x, kernel, params = _narrowed(layer, read, written)
        channels = (
            x[layer.operation.feature] / per_read,
            kernel[layer.operation.out] / per_written,
        )
        if channels not in [point[:2] for point in points]:
            operation = _Operation.of(x, kernel, params)
            points.append((*channels, timer.operation(operation)))
    coefficients, error = fit(points)
    return {
        "path": "/".join(layer.path),
        "measured": [list(point) for point in points],
        "microseconds": points[0][2],
        "coefficients": coefficients,
        "error": error,
    }


def fit(points: Sequence[tuple[float, float, float]]) -> tuple[list[float], float]:
    """Fits four numbers, none negative: fixed, per channel read, per channel written, per pair.

    Args:
      points: (channels read, channels written, time) of each measurement.

    Returns:
      The numbers, and the root mean square of the relative errors.
    """
    from scipy.optimize import nnls

    read, written, times = np.array(points, float).T
    times = np.maximum(times, 1e-3)
    # Relative errors are minimized; with absolute errors, narrow layers would hardly count.
    columns = np.stack([np.ones_like(read), read, written, read * written], 1) / times[:, None]
    # If the channels of one side cannot change, some columns are proportional to each other, and
    # nnls uses only one of them.
    scale = np.linalg.norm(columns, axis=0)
    numbers, residual = nnls(columns / scale, np.ones(len(times)))
    return (numbers / scale).tolist(), float(residual / np.sqrt(len(times)))


def _narrowed(
    layer: Layer, read: float, written: float
) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Returns a layer's shapes and parameters with a share of its channels.

    A side of the layer whose channels cannot be removed keeps all of them.
    """
    operation = layer.operation
    assert operation is not None
    x, kernel, params = list(operation.x), list(operation.kernel), dict(operation.params)
    groups = params.get("feature_group_count", 1)
    if layer.loses_whole_groups:  # Whole groups are removed, from the input and from the output.
        left = max(1, round(read * groups)) if layer.writes.any() else groups
        x[operation.feature] = x[operation.feature] // groups * left
        kernel[operation.out] = kernel[operation.out] // groups * left
        params["feature_group_count"] = left
        return tuple(x), tuple(kernel), params
    if layer.reads.any():
        kernel[operation.into] = max(1, round(read * kernel[operation.into]))
        x[operation.feature] = kernel[operation.into] * groups
    if layer.writes.any():
        share = max(1, round(written * kernel[operation.out] / groups))
        kernel[operation.out] = share * groups
    return tuple(x), tuple(kernel), params


@dataclasses.dataclass(frozen=True)
class _Operation:
    """An operation with its operands' shapes; equal operations are timed once."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    params: tuple[tuple[str, Any], ...]

    @classmethod
    def of(
        cls, x: tuple[int, ...], kernel: tuple[int, ...], params: Mapping[str, Any]
    ) -> "_Operation":
        """Returns the operation on operands of these shapes.

        Args:
          x: shape of the input, for one image.
          kernel: shape of the kernel.
          params: the parameters of the convolution; empty for a matrix product.
        """
        frozen = {name: _frozen(value) for name, value in params.items()}
        return cls(x, kernel, tuple(sorted(frozen.items())))

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if not self.params:
            return x @ kernel
        return jax.lax.conv_general_dilated(x, kernel, **dict(self.params))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if type(value) in (list, tuple) else value


class _Timer:
    """Times compiled programs on the first device."""

    def __init__(self, settings: LayerSettings) -> None:
        self._settings = settings
        self._known: dict[_Operation, float] = {}
        self._empty = 0.0
        x = jnp.ones((settings.batch_size, 8), settings.dtype)
        self._empty = self._microseconds(jax.jit(lambda x: x + 1), x)

    def operation(self, operation: _Operation) -> float:
        """Returns the microseconds of an operation on a batch, without the cost of the call."""
        if operation not in self._known:
            batch = self._settings.batch_size
            x = jnp.ones((batch * operation.x[0], *operation.x[1:]), self._settings.dtype)
            kernel = jnp.ones(operation.kernel, self._settings.dtype)
            self._known[operation] = self._microseconds(jax.jit(operation), x, kernel)
        return self._known[operation]

    def network(self, net: Any, shape: tuple[int, int, int]) -> float:
        """Returns the microseconds of a network on a batch, without the cost of the call."""
        variables = jax.device_put(models.initialize(net, 0, shape))
        images = jnp.ones((self._settings.batch_size, *shape), jnp.float32)
        apply = jax.jit(functools.partial(_logits, net))
        return self._microseconds(apply, variables, images)

    def _microseconds(self, function: Callable[..., Any], *arguments: Any) -> float:
        def seconds(calls: int) -> float:
            started = time.perf_counter()
            for _ in range(calls):
                result = function(*arguments)
            jax.block_until_ready(result)
            return (time.perf_counter() - started) / calls

        jax.block_until_ready(function(*arguments))
        calls = max(1, round(_LEAST_SECONDS / max(seconds(1), 1e-7)))
        measured = [seconds(calls) for _ in range(self._settings.rounds)]
        return max(1e6 * statistics.median(measured) - self._empty, 0.1)


def _logits(net: Any, variables: Any, images: jax.Array) -> jax.Array:
    return net.apply(variables, images, train=False).logits

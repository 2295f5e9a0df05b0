"""`kdjax bench --layers`: how long each layer of a network takes here, at several widths.

A layer is run by itself, compiled, on one batch; what calling an empty program takes is subtracted.
To the times at several widths four numbers are fitted, none of them negative: a fixed time, a time
for each channel read, for each one written, and for each pair of both. Normalisation, activations
and what a compiler merges are not in a single layer's time, so all are scaled by one factor: their
sum at full width is the measured time of the whole network.
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

# Shares of the channels read and written at which a layer is timed.
_SHARES = ((1, 1), (1, 0.5), (0.5, 1), (0.5, 0.5), (0.25, 1), (1, 0.25), (0.25, 0.25), (0.1, 0.1))
_DTYPES = ("float32", "bfloat16")
_LEAST_SECONDS = 2e-3  # Of one measurement: shorter ones are called several times.


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What to measure.

    Attributes:
      network, width: its name, and the factor of all its widths.
      classes, channels: of the generated images.
      image_size: their height and width in pixels.
      batch_size: images at a time.
      dtype: ``float32`` or ``bfloat16``.
      rounds: measurements of each; the median counts.
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
    """Measures, writes the table that a search takes, and returns it.

    Args:
      settings: what to measure.
      path: the file; one that `kdjax bench` wrote before is replaced.
      say: hears what is being done.

    Raises:
      ValueError: for bad settings, or if the file is something else.
    """
    check_output(path, KIND)
    _check(settings)
    architecture = models.create(settings.network, settings.classes, width=settings.width)
    shape = (*settings.image_size, settings.channels)
    traced = tracing.traced(architecture, shape)
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
        ("image_channels", settings.channels, 1),
        ("classes", settings.classes, 2),
    ):
        if value < least:
            raise ValueError(f"--{option} is {value}: at least {least}")
    if settings.dtype not in _DTYPES:
        raise ValueError(f"--dtype is {settings.dtype}: one of {', '.join(_DTYPES)}")


def time_network(settings: LayerSettings, widths: Mapping[str, int]) -> float:
    """Microseconds of one batch through the network of some widths, as the table's whole one."""
    architecture = models.create(settings.network, settings.classes, width=settings.width)
    shape = (*settings.image_size, settings.channels)
    return _Timer(settings).network(
        architecture.build(architecture.check(widths), dtype=settings.dtype), shape
    )


def _row(layer: Layer, timer: "_Timer") -> dict[str, Any]:
    """A layer's times at several widths, and the four numbers fitted to them."""
    assert layer.operation is not None
    # A dense layer that reads or writes several axes has several numbers for each channel.
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
    """Four numbers, none negative: fixed, for each channel read, written, and for each pair.

    Args:
      points: channels read, channels written, time.

    Returns:
      The numbers, and the root mean square of the relative errors.
    """
    from scipy.optimize import nnls

    read, written, times = np.array(points, float).T
    times = np.maximum(times, 1e-3)
    # Relative errors count, or the narrow layers would not.
    columns = np.stack([np.ones_like(read), read, written, read * written], 1) / times[:, None]
    # A column that says the same as another, where one side cannot be thinned, is left out.
    scale = np.linalg.norm(columns, axis=0)
    numbers, residual = nnls(columns / scale, np.ones(len(times)))
    return (numbers / scale).tolist(), float(residual / np.sqrt(len(times)))


def _narrowed(
    layer: Layer, read: float, written: float
) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes and parameters of a layer with a share of its channels; what stays, stays."""
    operation = layer.operation
    assert operation is not None
    x, kernel, params = list(operation.x), list(operation.kernel), dict(operation.params)
    groups = params.get("feature_group_count", 1)
    if layer.grouped:  # Whole groups go, from what is read and from what is written.
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
    """An operation with shapes; equal ones are timed once."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    params: tuple[tuple[str, Any], ...]

    @classmethod
    def of(
        cls, x: tuple[int, ...], kernel: tuple[int, ...], params: Mapping[str, Any]
    ) -> "_Operation":
        """The operation on operands of these shapes.

        Args:
          x: shape of the input, for one image.
          kernel: shape of the kernel.
          params: of the convolution; empty for a product.
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
        """Microseconds of an operation on a batch, without those of a call."""
        if operation not in self._known:
            batch = self._settings.batch_size
            x = jnp.ones((batch * operation.x[0], *operation.x[1:]), self._settings.dtype)
            kernel = jnp.ones(operation.kernel, self._settings.dtype)
            self._known[operation] = self._microseconds(jax.jit(operation), x, kernel)
        return self._known[operation]

    def network(self, net: Any, shape: tuple[int, int, int]) -> float:
        """Microseconds of a network on a batch, without those of a call."""
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

"""Measures how fast a device copies and multiplies, with the compiler that training uses."""

import time
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from kdjax.bench.limits import Rates

_REPETITIONS = 7  # The best one is used, because the limit is wanted.


def measure_rates(device: jax.Device, dtype: str) -> Rates:
    """Measures copy bandwidth, bytes read plus written, and the rate of square matrix products.

    Products use the default precision, as the networks do: if a GPU multiplies float32 with fewer
    bits, so does this function. The arrays are much larger than caches, but on a CPU small enough
    to take a fraction of a second.

    Args:
      device: the device to measure.
      dtype: ``float32`` or ``bfloat16``.
    """
    on_cpu = device.platform == "cpu"
    # On an accelerator, one call runs many repetitions, so that the cost of the call does not
    # matter. On a CPU, a loop would cost more than the call.
    numbers, side, loop = (2**24, 1024, 1) if on_cpu else (2**28, 8192, 16)
    vector = jax.device_put(jnp.ones((numbers // 1024, 1024), dtype), device)
    copy_seconds = _best(jax.jit(_repeated(lambda x: x + 1, loop)), vector) / loop
    # Scaled so that repeated products with this matrix neither explode nor vanish.
    matrix = jax.random.normal(jax.random.key(0), (side, side)) / side**0.5
    matrix = jax.device_put(matrix.astype(dtype), device)
    product = jax.jit(lambda a: _repeated(lambda x: a @ x, loop)(a))
    product_seconds = _best(product, matrix) / loop
    return Rates(
        bytes_per_second=2 * vector.nbytes / copy_seconds,
        flops_per_second=2 * side**3 / product_seconds,
    )


def together(rates: Rates, devices: int, platform: str) -> Rates:
    """The rates of several devices together; devices of a CPU are virtual and share its cores.

    Args:
      rates: the rates of one device.
      devices: the number of devices.
      platform: such as ``cpu`` or ``gpu``.
    """
    count = 1 if platform == "cpu" else devices
    return Rates(count * rates.bytes_per_second, count * rates.flops_per_second)


def _repeated(function: Callable[[chex.Array], chex.Array], count: int) -> Callable:
    if count == 1:
        return function
    return lambda x: jax.lax.fori_loop(0, count, lambda _, y: function(y), x)


def _best(function: Callable, argument: jax.Array) -> float:
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - started)
    return min(seconds)

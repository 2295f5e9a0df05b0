"""How fast a device copies and multiplies, measured by the compiler that trains on it."""

import time
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from kdjax.bench.limits import Rates

_REPETITIONS = 7  # The best one counts: it is the limit that is looked for.


def measure_rates(device: jax.Device, dtype: str) -> Rates:
    """Copy bandwidth, reading and writing counted, and the rate of square matrix products.

    In the default precision, as the networks: where a GPU multiplies float32 with fewer bits, this
    does too. Sizes are well above caches, and on a CPU small enough for a fraction of a second.

    Args:
      device: the one measured.
      dtype: ``float32`` or ``bfloat16``.
    """
    on_cpu = device.platform == "cpu"
    # One call of an accelerator holds many repetitions, so that calling costs nothing; a loop on a
    # CPU would cost more than the call.
    numbers, side, loop = (2**24, 1024, 1) if on_cpu else (2**28, 8192, 16)
    vector = jax.device_put(jnp.ones((numbers // 1024, 1024), dtype), device)
    copy_seconds = _best(jax.jit(_repeated(lambda x: x + 1, loop)), vector) / loop
    # Products with this matrix neither grow without end nor vanish.
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
      rates: of one device.
      devices: how many there are.
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

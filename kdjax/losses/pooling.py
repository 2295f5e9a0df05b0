"""Average pooling of maps to any smaller size."""

import chex
import jax.numpy as jnp

from kdjax.losses.rounding import EXACT


def pool_to(values: chex.Array, height: int, width: int) -> chex.Array:
    """Averages ``[batch, h, w, channels]`` to ``[batch, height, width, channels]``, in float32.

    Cell i of n is the mean of entries ``floor(i h / n)`` up to ``ceil((i + 1) h / n)``: windows of
    one size where n divides h, and windows that overlap by at most one entry otherwise.
    """
    values = jnp.asarray(values, jnp.float32)
    if values.shape[1:3] == (height, width):
        return values
    rows, columns = _windows(values.shape[1], height), _windows(values.shape[2], width)
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, values, precision=EXACT)


def pool_to_smaller(first: chex.Array, second: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Two maps pooled to the smaller height and the smaller width of both, in float32."""
    height = min(first.shape[1], second.shape[1])
    width = min(first.shape[2], second.shape[2])
    return pool_to(first, height, width), pool_to(second, height, width)


def _windows(size: int, cells: int) -> chex.Array:
    """``[cells, size]`` weights of an average over each cell's window."""
    weights = []
    for cell in range(cells):
        first, last = cell * size // cells, -(-(cell + 1) * size // cells)
        weights.append([(first <= at < last) / (last - first) for at in range(size)])
    return jnp.array(weights, jnp.float32)

"""Average pooling of maps to any smaller size."""

import chex
import jax.numpy as jnp

from kdjax.losses.numerics import EXACT


def pool_to(values: chex.Array, height: int, width: int) -> chex.Array:
    """Averages ``[batch, h, w, channels]`` to ``[batch, height, width, channels]``, in float32.

    Along an axis of h entries, cell i of n is the mean of the entries from ``floor(i h / n)`` up
    to, not including, ``ceil((i + 1) h / n)``. If n divides h, all windows have the same size;
    otherwise neighbouring windows overlap by at most one entry.

    Args:
      values: ``[batch, h, w, channels]`` floats.
      height: the height of the result, in pixels, at most h.
      width: the width of the result, in pixels, at most w.

    Returns:
      ``[batch, height, width, channels]`` float32.
    """
    values = jnp.asarray(values, jnp.float32)
    if values.shape[1:3] == (height, width):
        return values
    rows, columns = _windows(values.shape[1], height), _windows(values.shape[2], width)
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, values, precision=EXACT)


def pool_to_smaller(first: chex.Array, second: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Both maps pooled to the smaller of their heights and the smaller of their widths, float32."""
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

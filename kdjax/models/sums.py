"""Two sums over the positions of maps, in a form that each kind of device runs in one pass."""

import chex
import jax
import jax.numpy as jnp


def sum_both(first: chex.Array, second: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The sums of two maps of equal shape over all axes but the last, each ``[channels]``.

    Args:
      first: ``[batch, ..., channels]`` floats.
      second: as ``first``.
    """
    return jax.lax.platform_dependent(first, second, cuda=sum_together, default=_sum_apart)


def _sum_apart(first: chex.Array, second: chex.Array) -> tuple[chex.Array, chex.Array]:
    axes = tuple(range(first.ndim - 1))
    return jnp.sum(first, axes), jnp.sum(second, axes)


def sum_together(first: chex.Array, second: chex.Array) -> tuple[chex.Array, chex.Array]:
    """:func:`sum_both` as one reduction of two operands.

    XLA for GPUs computes a sum for each channel in two kernels. Of two separate sums it merges the
    first kernels, but not the second ones; with one reduction it merges both. On a CPU one
    reduction would add number by number, which is slower and less exact than two sums.

    Args:
      first: ``[batch, ..., channels]`` floats.
      second: as ``first``.
    """
    zeros = (jnp.zeros((), first.dtype), jnp.zeros((), second.dtype))
    return jax.lax.reduce((first, second), zeros, _add_pairs, tuple(range(first.ndim - 1)))


def _add_pairs(first: tuple, second: tuple) -> tuple:
    return first[0] + second[0], first[1] + second[1]

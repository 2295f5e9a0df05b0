"""Arithmetic that stays finite, in value and in gradient, where the plain formula does not.

NaN stays NaN: comparisons are written such that NaN takes the plain formula.
"""

import chex
import jax
import jax.numpy as jnp

# For matrix products in full float32: by default accelerators round the factors to fewer bits.
EXACT = jax.lax.Precision.HIGHEST

# Numbers count as equal if the sum of their squared deviations is at most this share of the sum of
# their squares: float32 cannot tell such numbers apart.
EQUAL = 1e-13

# Vectors shorter than this have no direction.
_SHORTEST = 1e-12


@jax.custom_jvp
def saturate(values: chex.Array) -> chex.Array:
    """``values``, limited to the largest float32 number; the gradient is that of ``values``."""
    return jnp.minimum(values, jnp.finfo(jnp.float32).max)


@saturate.defjvp
def _saturate_jvp(primals, tangents):
    return saturate(*primals), tangents[0]


def square_root(values: chex.Array) -> chex.Array:
    """Square root of numbers of at least 0, with gradient 0 (not infinity) at 0."""
    zero = values <= 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, values)))


def unit(values: chex.Array, axis: int | tuple[int, ...]) -> chex.Array:
    """Vectors along ``axis`` divided by their Euclidean length.

    A vector of length 0 stays 0 and gets the gradient 0, because it has no direction.
    """
    squared = jnp.sum(jnp.square(values), axis=axis, keepdims=True)
    short = squared <= _SHORTEST**2
    return jnp.where(short, 0.0, values / jnp.sqrt(jnp.where(short, 1.0, squared)))


def excess(values: chex.Array) -> chex.Array:
    r"""``exp(x) - 1 - x``, at least 0, with a small relative error at small x too."""
    small = jnp.abs(values) < 0.5
    near = jnp.where(small, values, 0.0)
    series = jnp.ones_like(near)
    for divisor in (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0):
        series = 1.0 + near / divisor * series
    return jnp.where(small, 0.5 * jnp.square(near) * series, jnp.expm1(values) - values)

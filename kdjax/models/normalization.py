"""Batch normalisation that leaves out padded examples: as a module and as a function."""

import functools
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.sums import sum_both

BATCH_STATS = "batch_stats"
MOMENTUM = 0.9  # Share of the old running average that a step keeps.
EPSILON = 1e-5  # Added to the variance.


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with float32 statistics.

    Unlike ``flax.linen.BatchNorm``, it leaves out padded examples exactly, even if devices hold
    different numbers of real examples: each device's statistics are weighted by that number.
    Running averages use the biased variance, as in flax.

    Attributes:
      axis_name: the mapped axis to share batch statistics over; None keeps them per device.
      dtype: the dtype of the output; statistics and parameters are float32.
      momentum: share of the old running average that a step keeps.
      epsilon: added to the variance.

    References:
      Ioffe, Szegedy, *Batch Normalization*, ICML 2015, algorithms 1 and 2.
    """

    axis_name: str | None = None
    dtype: chex.ArrayDType = jnp.float32
    momentum: float = MOMENTUM
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None = None) -> chex.Array:
        """Normalises a map, per channel.

        Args:
          x: ``[batch, ..., channels]`` floats.
          train: whether to use the batch's statistics, and to update the running ones.
          mask: ``[batch]`` booleans, False for padding; None: all examples are real.

        Returns:
          An array of the shape of ``x``, with the module's dtype.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable(BATCH_STATS, "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable(BATCH_STATS, "var", jnp.ones, shape, jnp.float32)
        variables = Normalization(scale, bias, running_mean.value, running_var.value)
        y, running = normalize(
            x,
            variables,
            train,
            mask,
            axis_name=self.axis_name,
            dtype=self.dtype,
            momentum=self.momentum,
            epsilon=self.epsilon,
        )
        if train and not self.is_initializing():
            running_mean.value, running_var.value = running
        return y


class Normalization(NamedTuple):
    """The variables of a batch normalisation, each ``[channels]`` float32."""

    scale: chex.Array
    bias: chex.Array
    mean: chex.Array
    var: chex.Array


def normalize(
    x: chex.Array,
    variables: Normalization,
    train: bool,
    mask: chex.Array | None,
    *,
    axis_name: str | None,
    dtype: chex.ArrayDType,
    momentum: float = MOMENTUM,
    epsilon: float = EPSILON,
) -> tuple[chex.Array, tuple[chex.Array, chex.Array]]:
    """Batch normalisation as a function, for training and evaluation.

    Args:
      x: ``[batch, ..., channels]``.
      variables: the variables of the normalisation.
      train: whether to normalise by the batch's statistics; else by the running ones.
      mask: ``[batch]`` bool, False for padding; or None.
      axis_name: the mapped axis to share batch statistics over, if any.
      dtype: the dtype of the output.
      momentum: share of the old running average that is kept.
      epsilon: added to the variance.

    Returns:
      ``(y, (mean, var))``: y has the shape of x; mean and var are the running averages after this
      batch.
    """
    scale, bias, mean, var = variables
    if not train:
        factor = scale * jax.lax.rsqrt(var + epsilon)
        y = x.astype(jnp.float32) * factor + (bias - mean * factor)
        return y.astype(dtype), (mean, var)
    y, batch_mean, batch_var = normalize_batch(x, scale, bias, mask, epsilon, axis_name)
    running = (
        momentum * mean + (1 - momentum) * batch_mean,
        momentum * var + (1 - momentum) * batch_var,
    )
    return y.astype(dtype), running


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize_batch(
    x: chex.Array,
    scale: chex.Array,
    bias: chex.Array,
    mask: chex.Array | None,
    epsilon: float,
    axis_name: str | None,
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Normalises by the statistics of the batch's real examples.

    The derivative is written out because the automatic one makes two to three times as many passes
    over x, and compiles to two to three times as many kernels.

    Args:
      x: ``[batch, ..., channels]`` floats.
      scale: ``[channels]`` float32.
      bias: ``[channels]`` float32.
      mask: ``[batch]`` bool, False for examples that must not influence the others; or None.
      epsilon: added to the variance.
      axis_name: the mapped axis to share the statistics over, if any.

    Returns:
      ``(y, mean, var)``: y has the shape of x, in float32, and is the bias in padded examples; mean
      and biased variance are ``[channels]`` float32, and no gradient flows through them.

    References:
      Ioffe, Szegedy, ICML 2015, section 3 (the derivative).
    """
    return _normalize_forward(x, scale, bias, mask, epsilon, axis_name)[0]


def _normalize_forward(x, scale, bias, mask, epsilon, axis_name):
    mean, var, count = _moments(x, mask, axis_name)
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = scale * inverse
    values = x.astype(jnp.float32)
    if mask is not None:
        # If all real examples are alike, their variance is almost 0. Padding differs from them:
        # divided by such a small deviation, it would grow with each layer until it is infinite.
        values = jnp.where(_per_example(mask, x.ndim), values, mean)
    y = values * factor + (bias - mean * factor)
    return (y, mean, var), (x, scale, mask, mean, inverse, count)


def _normalize_backward(epsilon, axis_name, residuals, cotangents):
    x, scale, mask, mean, inverse, count = residuals
    dy = cotangents[0]
    if mask is not None:
        dy = jnp.where(_per_example(mask, x.ndim), dy, 0.0)
    centred = x.astype(jnp.float32) - mean
    dbias, dscale = sum_both(dy, dy * centred)
    dscale *= inverse
    total = (dbias, dscale)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    # dx = scale * inverse * (dy - (sum(dy) + x_hat * sum(dy * x_hat)) / count), linear in x.
    slope = total[1] * inverse / count
    through_statistics = centred * slope + total[0] / count
    if mask is not None:
        through_statistics = jnp.where(_per_example(mask, x.ndim), through_statistics, 0.0)
    dx = (scale * inverse) * (dy - through_statistics)
    return dx.astype(x.dtype), dscale, dbias, None


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


def _moments(
    x: chex.Array, mask: chex.Array | None, axis_name: str | None
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Mean, biased variance ``[channels]`` and number of the real positions in x, float32.

    Before summing, a value near each channel's mean is subtracted from x. Otherwise, where the mean
    is large compared to the deviation, the variance would be the small difference of two large
    sums. A bfloat16 map is summed without this shift.

    References:
      Chan, Golub, LeVeque, *Algorithms for computing the sample variance*, 1983, sections 1 and 3
      (shifted sums; combining the sums of several groups).
    """
    positions = x[0, ..., 0].size
    # Rounding x to bfloat16 is a larger error than leaving out the shift. And without the shift a
    # TPU computes the sums together with x, at no cost.
    pivot = jnp.float32(0.0) if x.dtype == jnp.bfloat16 else _pivot(x, mask)
    x = x.astype(jnp.float32) - pivot
    if mask is None:
        count = jnp.float32(x.shape[0] * positions)
    else:
        count = jnp.sum(mask, dtype=jnp.float32) * positions
        x = jnp.where(_per_example(mask, x.ndim), x, 0.0)
    # Both sums come from one pass over x, the largest array there is.
    total, squares = sum_both(x, jnp.square(x))
    own = count
    count = jnp.maximum(count, 1.0)  # A device may hold nothing but padding.
    shift = total / count
    mean, squares = pivot + shift, jnp.maximum(squares - total * shift, 0.0)
    if axis_name is not None:
        # Each device has its own pivot, so their sums cannot be added. Their means are combined.
        own_mean = mean
        total, count = jax.lax.psum((own * own_mean, own), axis_name)
        count = jnp.maximum(count, 1.0)
        mean = total / count
        squares = jax.lax.psum(squares + own * jnp.square(own_mean - mean), axis_name)
    return mean, squares / count, count


def _pivot(x: chex.Array, mask: chex.Array | None) -> chex.Array:
    """A value near each channel's mean, ``[channels]`` float32: the mean of one row of an example.

    The row is the middle one of the first real example, which the padding of convolutions does not
    reach. On a GPU the value is the middle one of that row, since a mean would need a separate
    kernel. If a map has no rows, the value is the first real example itself.
    """
    while x.ndim > 3:  # Row first: to select an example, a TPU sums over the whole batch.
        x = x[:, x.shape[1] // 2]
    if mask is None:
        example = x[0]
    else:
        first = jnp.argmax(mask)
        example = jax.lax.dynamic_index_in_dim(x, first, keepdims=False)
        example = jnp.where(jnp.any(mask), example, 0.0)
    example = example.astype(jnp.float32)
    if example.ndim == 1:
        return example
    return jax.lax.platform_dependent(example, cuda=middle_of_row, default=_mean_of_row)


def _mean_of_row(row: chex.Array) -> chex.Array:
    return jnp.mean(row, axis=0)


def middle_of_row(row: chex.Array) -> chex.Array:
    """The middle one of a row's values ``[width, channels]``."""
    return row[row.shape[0] // 2]


def _per_example(mask: chex.Array, ndim: int) -> chex.Array:
    return mask.reshape((-1,) + (1,) * (ndim - 1))

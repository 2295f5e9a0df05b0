"""The layers all families share: batch normalisation that knows padding, and a convolution with it."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

BATCH_STATS = "batch_stats"


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with float32 statistics.

    Beyond ``flax.linen.BatchNorm``, padded examples are left out exactly, also when devices hold
    different numbers of real ones: sums and counts cross the devices, not means. Running averages
    use the biased variance, as flax does.

    Attributes:
      axis_name: the mapped axis to share batch statistics over; None keeps them per device.
      dtype: of the output; statistics and parameters are float32.
      momentum: share of the old running average kept at each step.
      epsilon: added to the variance.

    References:
      Ioffe, Szegedy, *Batch Normalization*, ICML 2015, algorithms 1 and 2.
    """

    axis_name: str | None = None
    dtype: chex.ArrayDType = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None = None) -> chex.Array:
        """Normalises ``x [batch, ..., channels]``; ``mask [batch]`` is False for padding."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable(BATCH_STATS, "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable(BATCH_STATS, "var", jnp.ones, shape, jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            mean, var = _batch_moments(x, mask, self.axis_name)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return ((x - mean) * factor + bias).astype(self.dtype)


def _batch_moments(
    x: chex.Array, mask: chex.Array | None, axis_name: str | None
) -> tuple[chex.Array, chex.Array]:
    """Mean and biased variance of the real examples in ``x [batch, ..., channels]`` float32."""
    axes = tuple(range(x.ndim - 1))
    positions = x[0, ..., 0].size
    if mask is None:
        count = jnp.float32(x.shape[0] * positions)
    else:
        count = jnp.sum(mask, dtype=jnp.float32) * positions
        x = jnp.where(mask.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0.0)
    # Both sums come from one pass over x, the largest array there is.
    moments = (jnp.sum(x, axes), jnp.sum(jnp.square(x), axes), count)
    if axis_name is not None:
        moments = jax.lax.psum(moments, axis_name)
    total, total_square, count = moments
    count = jnp.maximum(count, 1.0)  # A device may hold nothing but padding.
    mean = total / count
    return mean, jnp.maximum(total_square / count - jnp.square(mean), 0.0)


class ConvNorm(nn.Module):
    """A square convolution without bias, padded to keep the size at stride 1, then BatchNorm."""

    channels: int
    kernel: int = 3
    stride: int = 1
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None = None) -> chex.Array:
        """``[batch, height, width, in]`` -> ``[batch, ceil(height/stride), ..., channels]``."""
        pad = self.kernel // 2
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            self.stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name="conv",
        )(x)
        return BatchNorm(self.bn_axis_name, self.dtype, name="norm")(x, train, mask)

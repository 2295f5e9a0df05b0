"""The layers all families share: convolution with batch normalisation, and without."""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.convolution import convolve
from kdjax.models.normalization import EPSILON, MOMENTUM, BatchNorm


class ConvNorm(nn.Module):
    """A square convolution, padded to keep the size at stride 1, then BatchNorm.

    Attributes:
      channels: number of outputs.
      kernel: height and width in pixels, odd.
      stride: in pixels.
      groups: number of groups; for a depthwise convolution the number of inputs and outputs.
      use_bias: add a bias, which the normalisation cancels.
      dtype: the dtype of the computation; parameters and statistics are float32.
      bn_axis_name: the mapped axis to share batch statistics over, if any.
      momentum, epsilon: those of the normalisation.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None
    momentum: float = MOMENTUM
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None = None) -> chex.Array:
        """Convolves and normalises a map.

        Args:
          x: ``[batch, height, width, in]`` floats.
          train: whether to use the batch's statistics, and to update the running ones.
          mask: ``[batch]`` booleans, False for padding; None: all examples are real.

        Returns:
          ``[batch, ceil(height / stride), ceil(width / stride), channels]``.
        """
        conv = _conv(
            self.channels,
            self.kernel,
            self.stride,
            groups=self.groups,
            use_bias=self.use_bias,
            dtype=self.dtype,
            train=train,
        )
        norm = BatchNorm(self.bn_axis_name, self.dtype, self.momentum, self.epsilon, name="norm")
        return norm(conv(x), train, mask)


class NormConv(nn.Module):
    """BatchNorm, ReLU, then a square convolution, padded to keep the size at stride 1.

    Attributes:
      channels: number of outputs.
      kernel: height and width in pixels, odd.
      dtype: the dtype of the computation; parameters and statistics are float32.
      bn_axis_name: the mapped axis to share batch statistics over, if any.

    References:
      He et al., *Identity Mappings in Deep Residual Networks*, ECCV 2016, section 4.
    """

    channels: int
    kernel: int = 3
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None = None) -> chex.Array:
        """``[batch, height, width, in]`` -> ``[batch, height, width, channels]``."""
        x = nn.relu(BatchNorm(self.bn_axis_name, self.dtype, name="norm")(x, train, mask))
        return _conv(self.channels, self.kernel, dtype=self.dtype, train=train)(x)


class BareConv(nn.Module):
    """A square convolution alone, padded to keep the size at stride 1.

    Attributes:
      channels: number of outputs.
      kernel: height and width in pixels, odd.
      stride: in pixels.
      dtype: the dtype of the computation; parameters are float32.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    dtype: chex.ArrayDType = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """``[batch, height, width, in]`` -> ``[batch, ceil(height/stride), ..., channels]``."""
        return _conv(self.channels, self.kernel, self.stride, dtype=self.dtype, train=train)(x)


def max_pool(x: chex.Array) -> chex.Array:
    """3x3 max pooling at stride 2; the padding is minus infinity."""
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _conv(
    channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    use_bias: bool = False,
    dtype: chex.ArrayDType,
    train: bool,
) -> nn.Conv:
    """Creates the submodule ``conv`` of the calling module."""
    pad = kernel // 2
    return nn.Conv(
        channels,
        (kernel, kernel),
        stride,
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.initializers.he_normal(),
        # Evaluation keeps JAX's own derivatives, forward-mode ones included.
        conv_general_dilated=_convolution if train else None,
        name="conv",
    )


def _convolution(
    x: chex.Array,
    kernel: chex.Array,
    strides: Sequence[int],
    padding: Any,
    *,
    feature_group_count: int = 1,
    **others: Any,
) -> chex.Array:
    """The function that flax's layer calls; grouped ones keep their automatic derivative."""
    if feature_group_count == 1:
        return convolve(x, kernel, strides[0])
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=feature_group_count, **others
    )

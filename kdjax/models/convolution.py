"""Convolution whose derivatives are written as plain convolutions."""

import functools

import chex
import jax
import jax.numpy as jnp

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: chex.Array, kernel: chex.Array, stride: int = 1) -> chex.Array:
    """A square convolution, padded to keep the size at stride 1.

    Both derivatives are written out with batch, rows, columns and channels in their usual order.
    The automatic derivatives permute these axes. XLA on CPU undoes that in the main computation
    only: inside a loop it falls back to a weight gradient that is some 60 times slower.

    Args:
      x: ``[batch, height, width, in]``.
      kernel: ``[size, size, in, out]``, size odd, of the same dtype.
      stride: in pixels.

    Returns:
      ``[batch, ceil(height / stride), ceil(width / stride), out]``.
    """
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=_DIMENSIONS
    )


def _forward(x, kernel, stride):
    # XLA on CPU would compute x again for each of its uses: for the convolution, and for the layout
    # that the weight gradient needs. It does not compute a division twice. So x is divided by a 1
    # that XLA cannot recognise as a constant.
    x = jax.lax.platform_dependent(
        x,
        cpu=lambda x: x / jax.lax.optimization_barrier(jnp.ones((), x.dtype)),
        default=lambda x: x,
    )
    return convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, dy):
    x, kernel = residuals
    return _input_gradient(x.shape, kernel, dy, stride), _kernel_gradient(
        x, kernel.shape, dy, stride
    )


def _input_gradient(shape, kernel, dy, stride):
    size = kernel.shape[0]
    before = size - 1 - size // 2
    # Padding of dy, after dilation by the stride, so that the result has every pixel of x.
    padding = [
        (before, extent - (spread - 1) * stride - 1 + size - 1 - before)
        for extent, spread in zip(shape[1:3], dy.shape[1:3], strict=True)
    ]
    return jax.lax.conv_general_dilated(
        dy,
        kernel[::-1, ::-1].transpose(0, 1, 3, 2),
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=_DIMENSIONS,
    )


def _kernel_gradient(x, shape, dy, stride):
    size = shape[0]
    before = size // 2
    padding = [
        (before, (spread - 1) * stride + size - before - extent)
        for extent, spread in zip(x.shape[1:3], dy.shape[1:3], strict=True)
    ]
    # This is a convolution too: batch and channels of x are exchanged, and dy is the kernel.
    gradient = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=(stride, stride),
        dimension_numbers=_DIMENSIONS,
    )
    return gradient.transpose(1, 2, 0, 3)


convolve.defvjp(_forward, _backward)

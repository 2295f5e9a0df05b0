"""The convolution's explicit derivatives, compared with JAX's own in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models.convolution import convolve


def automatic(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("height, width", [(8, 8), (7, 9), (8, 5), (1, 1), (2, 3)])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_values_and_derivatives_equal_the_automatic_ones(height, width, size, stride):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, height, width, 3)))
        kernel = jnp.asarray(rng.normal(size=(size, size, 3, 4)))
        expected, expected_vjp = jax.vjp(lambda x, k: automatic(x, k, stride), x, kernel)
        found, found_vjp = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
        dy = jnp.asarray(rng.normal(size=expected.shape))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        for ours, theirs in zip(found_vjp(dy), expected_vjp(dy), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_derivatives_keep_the_dtype():
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    y, vjp = jax.vjp(convolve, x, kernel)
    assert [leaf.dtype for leaf in (y, *vjp(y)[:2])] == [jnp.bfloat16] * 3

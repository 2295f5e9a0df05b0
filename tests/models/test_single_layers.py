"""Single pooling, convolution and normalisation layers, checked by hand."""

import jax
import numpy as np
import pytest

from kdjax.models import (
    layers,
    normalization,
)


def test_max_pooling_ignores_what_is_beyond_the_border():
    x = -np.arange(1.0, 17.0, dtype=np.float32).reshape(1, 4, 4, 1)
    # Windows are centred at rows and columns 0 and 2; padding with zeros would win everywhere.
    np.testing.assert_array_equal(layers.max_pool(x)[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_a_convolution_after_its_normalisation_by_hand():
    x = np.array([3.0, -1.0], np.float32).reshape(1, 2, 1, 1)
    module = layers.NormConv(1)
    variables = module.init(jax.random.key(0), x, False)
    variables["batch_stats"]["norm"] = {"mean": np.array([1.0]), "var": np.array([4.0])}
    variables["params"]["conv"]["kernel"] = np.arange(9.0).reshape(3, 3, 1, 1)
    # The pixels are normalised to 1 and -1 and rectified to 1 and 0. The first output is the
    # kernel's middle, 4; for the second the first pixel is above, where the kernel has 1.
    y = module.apply(variables, x, False)
    np.testing.assert_allclose(y[0, :, 0, 0], [4.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize(("stride", "length"), [(1, 5), (2, 3)])
def test_a_bare_convolution_by_hand(stride, length):
    x = np.ones((1, 5, 5, 1), np.float32)
    module = layers.BareConv(1, 3, stride)
    variables = module.init(jax.random.key(0), x, False)
    variables["params"]["conv"]["kernel"] = np.ones((3, 3, 1, 1))
    for train in (False, True):
        y = module.apply(variables, x, train)
        assert y.shape == (1, length, length, 1)
        np.testing.assert_allclose(y[0, :2, 0, 0], [4, 6])  # A corner and a border pixel.


def test_normalisation_with_a_momentum_and_an_epsilon():
    x = np.array([[1.0], [3.0]], np.float32)
    norm = normalization.BatchNorm(momentum=0.99, epsilon=0.5)
    variables = norm.init(jax.random.key(0), x, False)
    y, state = norm.apply(variables, x, True, mutable=["batch_stats"])
    # The batch has mean 2 and variance 1; the running statistics were 0 and 1.
    np.testing.assert_allclose(y[:, 0], [-1 / np.sqrt(1.5), 1 / np.sqrt(1.5)], rtol=1e-6)
    np.testing.assert_allclose(state["batch_stats"]["mean"], [0.02], rtol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["var"], [1.0], rtol=1e-6)
    np.testing.assert_allclose(norm.apply(variables, x, False)[1], 3 / np.sqrt(1.5), rtol=1e-6)


# Blocks

"""Batch normalisation: running averages, padding, devices, and the explicit derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models import normalization


def test_running_averages_by_hand():
    x = jnp.array([[1.0], [3.0], [100.0]])
    norm = normalization.BatchNorm()
    variables = {
        "params": {"scale": jnp.array([2.0]), "bias": jnp.array([1.0])},
        "batch_stats": {"mean": jnp.array([10.0]), "var": jnp.array([5.0])},
    }
    mask = jnp.array([True, True, False])
    y, updated = norm.apply(variables, x, True, mask, mutable=["batch_stats"])
    # Mean 2, biased variance 1: (1 - 2) * 2 + 1 = -1, and 3. Averages .9 * 10 + .1 * 2, .9 * 5 + .1
    np.testing.assert_allclose(y[:2, 0], [-1.0, 3.0], rtol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [9.2], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [4.6], rtol=1e-6)
    evaluated = norm.apply(variables, x, False)
    np.testing.assert_allclose(evaluated[2, 0], 2 * 90 / np.sqrt(5 + 1e-5) + 1, rtol=1e-6)


def normalize64(x, scale, bias, mask, epsilon):
    """The textbook formula in NumPy, for real or complex numbers."""
    real = x if mask is None else x[mask]
    mean = real.mean(axis=(0, 1, 2))
    var = ((real - mean) ** 2).mean(axis=(0, 1, 2))
    y = (x - mean) / np.sqrt(var + epsilon) * scale + bias
    return y if mask is None else np.where(mask[:, None, None, None], y, bias)


def complex_step_gradient(function, argument, step=1e-30):
    """Returns derivatives exact to float64 rounding: f(a + ih) has imaginary part h f'(a)."""
    gradient = np.empty(argument.shape)
    for index in np.ndindex(argument.shape):
        moved = argument.astype(complex)
        moved[index] += 1j * step
        gradient[index] = function(moved).imag / step
    return gradient


@pytest.mark.parametrize("mask", [None, np.array([True, False, True])])
def test_normalisation_and_its_written_out_gradient_equal_the_formula(mask):
    generator = np.random.default_rng(11)
    x = generator.standard_normal((3, 2, 3, 2)) * 2 + 1
    scale, bias = generator.standard_normal(2), generator.standard_normal(2)
    direction = generator.standard_normal(x.shape)
    epsilon = 1e-3

    def total64(x, scale, bias):
        return (direction * normalize64(x, scale, bias, mask, epsilon)).sum()

    def total(x, scale, bias):
        y, _, _ = normalization.normalize_batch(x, scale, bias, mask, epsilon, None)
        return jnp.sum(jnp.asarray(direction, jnp.float32) * y)

    arguments = tuple(np.asarray(value, np.float32) for value in (x, scale, bias))
    y, _, _ = normalization.normalize_batch(*arguments, mask, epsilon, None)
    np.testing.assert_allclose(y, normalize64(x, scale, bias, mask, epsilon), atol=1e-5)
    actual = jax.grad(total, argnums=(0, 1, 2))(*arguments)
    expected = (
        complex_step_gradient(lambda value: total64(value, scale, bias), x),
        complex_step_gradient(lambda value: total64(x, value, bias), scale),
        complex_step_gradient(lambda value: total64(x, scale, value), bias),
    )
    if mask is not None:  # Padding does not count in the bias's gradient.
        padding = direction[~mask].sum(axis=(0, 1, 2))
        expected = (*expected[:2], expected[2] - padding)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("ratio", [0, 1, 1e3, 1e4])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_mean_far_above_the_deviation_leaves_the_variance_exact(ratio, devices):
    generator = np.random.default_rng(13)
    signs = np.array([1.0, -1.0, 0.0])  # The third channel stays around 0.
    x = (generator.standard_normal((8, 4, 6, 3)) + signs * ratio).astype(np.float32)
    # Padding before or after the examples must change nothing, whatever its values are.
    mask = np.array([False, True, True, True, True, True, False, False])
    x[~mask] = np.nan
    real = x[mask].astype(np.float64)
    if devices == 1:
        _, mean, var = normalization.normalize_batch(x, np.ones(3), np.zeros(3), mask, 1e-5, None)
    else:
        _, means, variances = jax.vmap(
            lambda x, mask: normalization.normalize_batch(
                x, np.ones(3), np.zeros(3), mask, 1e-5, "d"
            ),
            axis_name="d",
        )(x.reshape(4, 2, 4, 6, 3), mask.reshape(4, 2))
        for device in range(1, 4):
            np.testing.assert_array_equal(variances[device], variances[0])
        mean, var = means[0], variances[0]
    np.testing.assert_allclose(var, real.var(axis=(0, 1, 2)), rtol=3e-6 if devices == 1 else 1e-5)
    # As close as float32 can represent the mean.
    np.testing.assert_allclose(mean, real.mean(axis=(0, 1, 2)), rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize("ratio", [0, 1, 30, 250])
@pytest.mark.parametrize("masked", [False, True])
def test_rounding_to_bfloat16_costs_more_than_the_sums(ratio, masked):
    """Statistics are those of the rounded map; their error is below that of the rounding."""
    generator = np.random.default_rng(17)
    exact = generator.standard_normal((16, 32, 32, 2)) + np.array([1.0, -1.0]) * ratio
    x = jnp.asarray(exact, jnp.bfloat16)
    mask = np.arange(16) < 11 if masked else None
    rows = slice(11 if masked else None)
    rounded = np.asarray(x[rows], np.float64)
    ones = jnp.ones(2)
    _, mean, var = normalization.normalize_batch(x, ones, ones, mask, 1e-5, None)
    expected = rounded.var(axis=(0, 1, 2))
    rounding = ratio / 2**8 / np.sqrt(12)  # Standard deviation of rounding errors near the mean.
    np.testing.assert_allclose(var, expected, rtol=1e-6 + 0.1 * rounding**2)
    np.testing.assert_allclose(mean, rounded.mean(axis=(0, 1, 2)), rtol=1e-6, atol=1e-6)


def test_statistics_and_gradients_across_devices_are_those_of_the_whole_batch():
    generator = np.random.default_rng(12)
    x = generator.standard_normal((6, 2, 2, 3)).astype(np.float32)
    direction = generator.standard_normal(x.shape).astype(np.float32)
    scale, bias = np.array([1.0, 2.0, -1.0], np.float32), np.zeros(3, np.float32)
    # The devices have two, one and no real examples.
    mask = np.array([True, True, False, True, False, False])

    def total(x, scale, bias, mask, direction, axis_name):
        y, mean, var = normalization.normalize_batch(x, scale, bias, mask, 1e-5, axis_name)
        return jnp.sum(jnp.where(mask[:, None, None, None], y * direction, 0.0)), (y, mean, var)

    gradient = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    (dx, dscale, dbias), (y, mean, var) = gradient(x, scale, bias, mask, direction, None)
    shards = [array.reshape(3, 2, *array.shape[1:]) for array in (x, mask, direction)]
    mapped = jax.vmap(
        lambda x, mask, direction: gradient(x, scale, bias, mask, direction, "devices"),
        axis_name="devices",
    )
    (dx_s, dscale_s, dbias_s), (y_s, mean_s, var_s) = mapped(*shards)
    np.testing.assert_allclose(y_s.reshape(y.shape), y, atol=1e-5)
    np.testing.assert_allclose(dx_s.reshape(dx.shape), dx, atol=1e-5)
    for device in range(3):
        np.testing.assert_allclose(mean_s[device], mean, atol=1e-6)
        np.testing.assert_allclose(var_s[device], var, atol=1e-6)
    np.testing.assert_allclose(dscale_s.sum(0), dscale, atol=1e-5)
    np.testing.assert_allclose(dbias_s.sum(0), dbias, atol=1e-5)


def test_padding_stays_finite_where_the_real_examples_are_all_alike():
    """One real example on a map of one pixel has variance 0; 40 layers divide by its root."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 1, 1, 3)).astype(np.float32)
    mask = np.arange(4) < 1

    def through_many_layers(scale, x):
        for _ in range(40):
            x, _, _ = normalization.normalize_batch(x, scale, jnp.zeros(3), mask, 1e-5, None)
        return jnp.sum(jnp.where(mask[:, None, None, None], x, 0.0) ** 2), x

    (_, y), gradient = jax.value_and_grad(through_many_layers, has_aux=True)(jnp.ones(3), x)
    assert np.isfinite(y).all() and np.isfinite(gradient).all()

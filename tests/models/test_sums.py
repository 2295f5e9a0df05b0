"""Two sums at once, in the form for each kind of device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models import normalization, sums


@pytest.mark.parametrize("form", [sums.sum_both, sums.sum_together])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 6)])
def test_each_map_is_summed_to_its_channels(form, shape):
    first = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    second = first**2 - 7  # Whole numbers: the order of additions does not matter.
    axes = tuple(range(len(shape) - 1))
    for ours, x in zip(form(first, second), (first, second), strict=True):
        np.testing.assert_array_equal(ours, x.sum(axes))
    # With an additional axis, as in strategies that scan or map over students.
    for ours, x in zip(jax.vmap(form)(first, second), (first, second), strict=True):
        np.testing.assert_array_equal(ours, x.sum(axes[1:]))


@pytest.mark.parametrize(("platform", "reductions"), [("cpu", 2), ("cuda", 1), ("tpu", 2)])
def test_a_gpu_has_both_in_one_reduction(platform, reductions):
    x = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
    text = jax.jit(sums.sum_both).trace(x, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.reduce(") == reductions


def test_batch_normalisation_is_the_same_in_both_forms(monkeypatch):
    generator = np.random.default_rng(0)
    x, direction = generator.normal(2, 3, (2, 6, 3, 4, 5)).astype(np.float32)
    scale, bias = generator.normal(size=(2, 5)).astype(np.float32)
    mask = np.arange(6) < 4

    def results():
        def total(*values):
            y, *moments = normalization.normalize_batch(*values, mask, 1e-5, None)
            return jnp.sum(y * direction), moments

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

    apart = results()
    monkeypatch.setattr(normalization, "sum_both", sums.sum_together)
    for ours, theirs in zip(jax.tree.leaves(results()), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pivot", [normalization._mean_of_row, normalization.middle_of_row])
@pytest.mark.parametrize("masked", [False, True])
def test_a_variance_is_exact_far_from_zero_in_both_forms(monkeypatch, pivot, masked):
    """The mean is 1000 deviations: with plain sums the variance would be wrong by a fifth."""
    monkeypatch.setattr(normalization, "_mean_of_row", pivot)
    x = np.random.default_rng(0).normal(1000.0, 1.0, (32, 8, 8, 16)).astype(np.float32)
    mask = np.arange(32) >= 3 if masked else None
    x[:3] = 0.0 if masked else x[:3]
    real = x[mask].astype(np.float64) if masked else x.astype(np.float64)
    ones, zeros = np.ones(16, np.float32), np.zeros(16, np.float32)
    _, mean, var = normalization.normalize_batch(x, ones, zeros, mask, 1e-5, None)
    np.testing.assert_allclose(mean, real.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, real.var((0, 1, 2)), rtol=1e-5)


def test_a_gpu_takes_one_value_near_the_mean():
    x = jax.ShapeDtypeStruct((4, 6, 6, 3), jnp.float32)

    def reductions(platform):
        pivot = jax.jit(lambda x: normalization._pivot(x, None))
        return pivot.trace(x).lower(lowering_platforms=(platform,)).as_text().count("reduce(")

    assert (reductions("cpu"), reductions("cuda")) == (1, 0)

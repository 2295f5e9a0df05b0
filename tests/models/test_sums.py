"""Two sums in the forms of the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models import layers, sums


@pytest.mark.parametrize("form", [sums.sum_both, sums.sum_together])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 6)])
def test_each_map_is_summed_to_its_channels(form, shape):
    first = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    second = first**2 - 7  # Whole numbers: every order of adding gives the same.
    axes = tuple(range(len(shape) - 1))
    for ours, x in zip(form(first, second), (first, second), strict=True):
        np.testing.assert_array_equal(ours, x.sum(axes))
    # Side by side, as strategies that scan or map over students have it.
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
            y, *moments = layers.normalize_batch(*values, mask, 1e-5, None)
            return jnp.sum(y * direction), moments

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

    apart = results()
    monkeypatch.setattr(layers, "sum_both", sums.sum_together)
    for ours, theirs in zip(jax.tree.leaves(results()), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

"""The ReLU that stores only its result for the backward pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models.activations import stored_relu

VALUES = [-2.0, -0.0, 0.0, 1e-30, 3.0, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_derivatives_are_those_of_relu(dtype):
    x, tangent = jnp.array(VALUES, dtype), jnp.arange(1, 9, dtype=dtype)
    for run in (
        lambda relu: relu(x),
        lambda relu: jax.jvp(relu, (x,), (tangent,)),
        lambda relu: jax.vjp(relu, x)[1](tangent),
        lambda relu: jax.vmap(jax.grad(relu))(x),
        lambda relu: jax.vmap(jax.grad(jax.grad(lambda x: relu(x) ** 2)))(x[3:5]),
        lambda relu: jax.grad(lambda x: jax.checkpoint(relu)(x).sum())(x),
    ):
        for ours, theirs in zip(
            *map(jax.tree.leaves, (run(stored_relu), run(nn.relu))), strict=True
        ):
            assert ours.dtype == theirs.dtype == dtype
            np.testing.assert_array_equal(*(np.asarray(y, np.float32) for y in (ours, theirs)))

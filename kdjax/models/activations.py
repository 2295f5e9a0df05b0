"""ReLU after a shortcut, of which one map is stored."""

import chex
import jax
import jax.numpy as jnp


@jax.custom_jvp
def stored_relu(x: chex.Array) -> chex.Array:
    """``max(x, 0)``, whose derivative reads the result.

    Where the result is read more than once, XLA may store x as well, for the derivative and for
    readers that it makes compute the maximum again. Here only the result is stored. Right after a
    normalisation that is no gain: what is stored there is the map that the normalisation reads.

    Args:
      x: floats of any shape.

    Returns:
      As ``flax.linen.relu``; so are the derivatives.
    """
    return jax.lax.optimization_barrier(jnp.maximum(x, 0))


@stored_relu.defjvp
def _derivative(primals, tangents):
    y, (tangent,) = stored_relu(*primals), tangents
    return y, jnp.where(y > 0, tangent, 0)

"""Parameters are read as they are stored; their initialisers are traced once."""

from collections.abc import Callable

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kdjax import tracing
from kdjax.tracing.stored import stored_parameters


class Scaled(nn.Module):
    """Scales the maps of a convolution by a parameter with an initialiser of its own."""

    draw: Callable

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), name="conv")(x) * self.param("scale", self.draw, (4,))
        return nn.Dense(2, name="classifier")(x.mean((1, 2)))


def test_an_initialiser_is_traced_once():
    drawn = []

    def draw(key, shape):
        drawn.append(shape)
        return jax.random.normal(key, shape)

    described = tracing.trace(Scaled(draw), (8, 8, 3))
    assert drawn == [(4,)]
    assert tracing.count(described).params == (27 * 4 + 4) + 4 + (4 * 2 + 2)


def test_logits_are_the_same_and_a_missing_parameter_is_named():
    # Parameters in boxes, as in networks that name the axes of a mesh.
    draw = nn.with_partitioning(jax.random.normal, ("channels",))
    net, images = Scaled(draw), jnp.ones((1, 8, 8, 3))
    variables = net.init(jax.random.key(0), images)
    expected = net.apply(variables, images)
    with stored_parameters():
        assert (net.apply(variables, images) == expected).all()
        del variables["params"]["scale"]
        with pytest.raises(flax.errors.ScopeParamNotFoundError, match="scale"):
            net.apply(variables, images)

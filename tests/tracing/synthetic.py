"""Small networks of every kind of structure, each built from a width vector."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import tracing
from kdjax.widths import WidthVector

SHAPE = (8, 8, 3)
CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Family:
    """A module class and its full widths."""

    module: Callable[..., nn.Module]
    widths: WidthVector
    keeps_cardinality: bool = False

    def build(self, widths):
        return self.module(WidthVector(widths))


def family(module, **widths):
    return Family(module, WidthVector(widths))


def norm(x, name):
    return nn.BatchNorm(use_running_average=True, name=name)(x)


def conv(channels, x, name, kernel=3, **fields):
    """Applies a convolution without a bias, and normalisation."""
    y = nn.Conv(channels, (kernel, kernel), use_bias=False, name=name, **fields)(x)
    return norm(y, f"{name}_norm")


class Net(nn.Module):
    """A trunk between the image and a classifier."""

    widths: WidthVector

    @nn.compact
    def __call__(self, x, train=False):
        x = self.trunk(x, self.widths)
        if x.ndim == 4:
            x = x.mean((1, 2))
        return nn.Dense(CLASSES, name="classifier")(x)


class DenselyConnected(Net):
    """Every layer reads all layers before it; the transition reads four segments."""

    def trunk(self, x, widths):
        x = nn.Conv(widths["stem"], (3, 3), use_bias=False, name="stem")(x)
        for number in (1, 2, 3):
            y = nn.relu(norm(x, f"norm{number}"))
            y = nn.Conv(widths[f"grow{number}"], (3, 3), use_bias=False, name=f"grow{number}")(y)
            x = jnp.concatenate([x, y], axis=-1)
        x = nn.relu(norm(x, "norm4"))
        x = nn.Conv(widths["transition"], (1, 1), use_bias=False, name="transition")(x)
        return nn.relu(norm(x, "norm5"))


class SqueezeExcite(Net):
    """A gate for each channel, between two convolutions, with swish."""

    def trunk(self, x, widths):
        x = nn.swish(conv(widths["wide"], x, "expand"))
        gate = x.mean((1, 2), keepdims=True)
        gate = nn.swish(nn.Conv(widths["squeeze"], (1, 1), name="squeeze")(gate))
        gate = nn.sigmoid(nn.Conv(widths["wide"], (1, 1), name="excite")(gate))
        return nn.swish(conv(widths["narrow"], x * gate, "project", 1))


class Grouped(Net):
    """A ResNeXt block with groups of two channels."""

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["stem"], x, "stem"))
        y = nn.relu(conv(widths["hidden"], x, "conv1", 1))
        groups = widths["hidden"] // 2
        y = nn.relu(conv(widths["hidden"], y, "conv2", feature_group_count=groups))
        return nn.relu(x + conv(widths["stem"], y, "conv3", 1))


class Cardinal(Net):
    """A ResNeXt block with two groups at all widths."""

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["stem"], x, "stem"))
        y = nn.relu(conv(widths["read"], x, "conv1", 1))
        y = nn.relu(conv(widths["written"], y, "conv2", feature_group_count=2))
        return nn.relu(x + conv(widths["stem"], y, "conv3", 1))


class ZeroPadded(Net):
    """A shortcut that is padded with zero channels: at the end, or on both sides."""

    symmetric: bool = False

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["stem"], x, "stem"))
        y = nn.relu(conv(widths["hidden"], x, "conv1", strides=2))
        y = conv(widths["stage"], y, "conv2")
        more = widths["stage"] - widths["stem"]
        before = more // 2 if self.symmetric else 0
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, more - before)))
        return nn.relu(x + y)


class Flattened(Net):
    """A map flattened for a dense layer."""

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["first"], x, "first", strides=2))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        return nn.relu(norm(nn.Dense(widths["dense"], name="dense")(x), "norm"))


class Shuffled(Net):
    """A shuffle of two halves of the channels, between a depthwise and a 1 x 1 convolution."""

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["first"], x, "first"))
        x = conv(widths["first"], x, "each", feature_group_count=widths["first"])
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height, width, 2, channels // 2)
        x = x.swapaxes(3, 4).reshape(batch, height, width, channels)
        return nn.relu(conv(widths["last"], nn.relu(x), "last", 1))


class Shared(Net):
    """One convolution, used twice."""

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["all"], x, "stem"))
        twice = nn.Conv(widths["all"], (3, 3), use_bias=False, name="twice")
        x = nn.relu(norm(twice(x), "norm1"))
        return nn.relu(norm(twice(x), "norm2"))


class Block(nn.Module):
    """A block of a ResNet."""

    inner: int
    outer: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(conv(self.inner, x, "conv1"))
        return nn.relu(x + conv(self.outer, y, "conv2"))


class Wrapped(Net):
    """Blocks of equal shape, recomputed in the backward pass, or compiled once."""

    wrapper: Any = nn.remat

    def trunk(self, x, widths):
        x = nn.relu(conv(widths["trunk"], x, "stem"))
        for number in (1, 2):
            block = self.wrapper(Block)(
                widths[f"inner{number}"], widths["trunk"], name=f"block{number}"
            )
            x = block(x)
        return x


class LayerNormed(Net):
    """A ConvNeXt block."""

    def trunk(self, x, widths):
        x = nn.Conv(widths["trunk"], (2, 2), (2, 2), name="stem")(x)
        y = nn.Conv(widths["trunk"], (3, 3), feature_group_count=widths["trunk"], name="depthwise")(
            x
        )
        y = nn.LayerNorm(name="norm")(y)
        y = nn.gelu(nn.Dense(widths["hidden"], name="expand")(y))
        y = nn.Dense(widths["trunk"], name="project")(y)
        return x + y * self.param("gamma", nn.initializers.ones, (widths["trunk"],))


class GroupNormed(Net):
    """A convolution that is normalised over groups of channels."""

    def trunk(self, x, widths):
        x = nn.Conv(widths["first"], (3, 3), name="first")(x)
        x = nn.relu(nn.GroupNorm(num_groups=2, name="norm")(x))
        return nn.relu(conv(widths["last"], x, "last"))


class Gated(Net):
    """Half of a layer's channels gate the other half; a transposed convolution follows."""

    def trunk(self, x, widths):
        x = conv(widths["pair"], x, "pair", strides=2)
        value, gate = jnp.split(x, 2, axis=-1)
        x = value * nn.sigmoid(gate)
        x = nn.ConvTranspose(widths["up"], (3, 3), (2, 2), name="up")(x)
        x = norm(x, "norm")
        return jnp.where(x > 0, x, 0.1 * x)


def variables_of(net, seed=0):
    """Returns random variables that keep maps of the order of 1."""
    generator = np.random.default_rng(seed)
    images = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)

    def draw(path, leaf):
        noise = generator.normal(size=leaf.shape)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        values = {
            "kernel": 1.5 * noise / np.sqrt(fan_in),
            "scale": 1 + 0.3 * noise,
            "var": np.exp(0.5 * noise),
        }
        return values.get(path[-1].key, 0.3 * noise).astype(np.float32)

    return jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(net.init, jax.random.key(0), images)
    )


def logits(net, variables):
    images = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    return np.asarray(jax.jit(net.apply)(variables, images))


def widths_of(description, alive):
    """Returns the number of living channels for the name of each width."""
    return {name: int(alive[units].sum()) for name, units in description.widths.items()}


def silenced(variables, description, alive):
    """Returns the full network's variables; scales and biases of channels not alive are 0."""
    flat = dict(flax.traverse_util.flatten_dict(variables))
    for path, axes in description.leaves.items():
        if path[0] == "params" and len(axes) == 1:
            flat[path] = np.where(alive[axes[0]], flat[path], 0).astype(flat[path].dtype)
    return flax.traverse_util.unflatten_dict(flat)


def assert_sliced_is_masked(architecture, description, alive):
    """Checks that the small network has the channels, costs and outputs of the masked one."""
    small = architecture.build(
        {name: widths_of(description, alive)[name] for name in architecture.widths}
    )
    again = tracing.check(description, alive, small, SHAPE)
    assert tracing.count(again) == tracing.count(description, alive)
    full = architecture.build(architecture.widths)
    silent = silenced(variables_of(full), description, alive)
    expected = logits(full, silent)
    found = logits(small, tracing.take(silent, description, alive))
    assert np.std(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)

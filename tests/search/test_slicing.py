"""The small network of surviving channels, compared with the full one whose others are dead."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import costs, models, tracing
from kdjax.models import densenet, efficientnet, imagenet_resnet
from kdjax.models.initialize import variable_shapes
from kdjax.search import Channels, alive_widths, kept_channels


def small_densenet():
    layers_per_block = (2, 2, 1)
    widths = densenet.width_vector(layers_per_block, growth=8, stem=12)
    return densenet.DenseNet("small", 5, widths, layers_per_block, imagenet=False)


def small_resnext():
    variant = imagenet_resnet.Variant((2, 1, 1, 1), cardinality=8, base_width=16)
    planes = {f"stage{number}": 4 * 2**number for number in range(1, 5)}
    widths = imagenet_resnet.width_vector(variant, 16, planes)
    return imagenet_resnet.ImageNetResNet("small", 5, widths, variant)


def small_efficientnet():
    width, depth = 0.125, 0.5  # Two blocks in stages 4 to 6, one in the others.
    widths = efficientnet.width_vector(width, depth, stem=8)
    return efficientnet.EfficientNet("small", 5, widths, width, depth)


# Name -> width of the registered network, or a function that makes one of few layers; image shape.
NETWORKS = {
    "resnet8": (0.5, (8, 8, 3)),
    "resnet20": (0.25, (9, 11, 1)),
    "mobilenet_v2": (0.1, (16, 16, 3)),
    "vgg16_bn": (0.05, (16, 16, 3)),
    "vgg16_bn_imagenet": (0.05, (40, 40, 3)),  # Its last map is 2 x 2.
    "wrn_16_2": (0.2, (8, 8, 3)),
    "resnet18": (0.1, (40, 40, 3)),
    "densenet": (small_densenet, (8, 8, 3)),
    "resnext": (small_resnext, (40, 40, 3)),
    "efficientnet": (small_efficientnet, (40, 40, 3)),
}


class Case:
    """A network with random variables and random dead channels."""

    def __init__(self, name, seed=0, dead=0.4):
        source, self.shape = NETWORKS[name]
        architecture = source() if callable(source) else models.create(name, 5, width=source)
        if architecture.widths.get("dense1"):
            small = dict(architecture.widths) | {"dense1": 7, "dense2": 6}
            architecture = type(architecture)(
                **{**vars(architecture), "widths": type(architecture.widths)(small)}
            )
        self.architecture, self.net = architecture, architecture.build()
        self.channels = Channels.of(architecture, architecture.widths, self.shape)
        self.generator = np.random.default_rng(seed)
        variables = jax.tree_util.tree_map_with_path(
            self.draw, dict(variable_shapes(self.net, self.shape))
        )
        flags = self.generator.random(len(self.channels.group_of)) < dead
        starts = np.cumsum([0] + [group.units for group in self.channels.groups[:-1]])
        flags[starts] = False
        self.dead = flags
        # As in a search, scales and biases of dead channels are 0.
        silent = [
            jnp.asarray(np.where(flags, 0, matrix(variables["params"])), jnp.float32)
            for matrix in (self.channels.scales, self.channels.biases)
        ]
        params = self.channels.with_scales(variables["params"], *silent)
        self.variables = {**variables, "params": params}
        self.widths = alive_widths(self.channels, architecture.widths, flags)
        magnitudes = np.asarray(self.channels.magnitudes(params))
        self.kept = kept_channels(self.channels, magnitudes, flags, self.widths)
        self.alive = tracing.alive_from_kept(self.channels.traced, self.kept)
        # The images differ in the mean, because little else passes through many narrow layers.
        means = np.array([-3.0, 0.0, 3.0]).reshape(3, 1, 1, 1)
        self.images = self.generator.normal(means, 1, (3, *self.shape)).astype(np.float32)

    def draw(self, path, leaf):
        """Draws numbers, no two alike, that keep maps and statistics of the order of 1."""
        noise = self.generator.normal(size=leaf.shape)
        name = path[-1].key
        if name == "kernel":
            values = 1.6 * noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = {
                "scale": 1 + 0.3 * noise,
                "bias": 0.2 + 0.3 * noise,
                "mean": 0.3 * noise,
                "var": np.exp(0.5 * noise),
            }[name]
        return values.astype(np.float32)

    def small(self, variables):
        return tracing.take(variables, self.channels.traced, self.alive)


def outputs(net, variables, images):
    return jax.jit(net.apply)(variables, images)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    return Case(request.param)


def test_the_small_network_is_the_searched_one(case):
    small = case.small(case.variables)
    full = outputs(case.net, case.variables, case.images)
    found = outputs(case.architecture.build(case.widths), small, case.images)
    assert np.std(full.logits, axis=0).max() > 1e-2  # Logits depend on images.
    np.testing.assert_allclose(found.logits, full.logits, atol=1e-5, rtol=1e-5)
    thinned = 0
    for ours, theirs in zip(found.features, full.features, strict=True):
        # The small map has the living channels of the full map, in order.
        assert ours.shape[:3] == theirs.shape[:3]
        thinned += theirs.shape[-1] - ours.shape[-1]
        rest = iter(np.moveaxis(np.asarray(theirs), -1, 0))
        for channel in np.moveaxis(np.asarray(ours), -1, 0):
            scale = 1e-5 * np.abs(theirs).max()
            assert any(np.allclose(channel, other, atol=scale, rtol=1e-4) for other in rest)
    assert thinned > 0


def test_the_small_network_is_the_full_one_without_channels(case):
    net = case.architecture.build(case.widths)
    small = tracing.check(case.channels.traced, case.alive, net, case.shape)
    assert tracing.count(small) == tracing.count(case.channels.traced, case.alive)
    assert tracing.count(small) == costs.count(case.architecture, case.widths, case.shape)


def test_the_shapes_are_those_of_the_widths(case):
    small = case.small(case.variables)
    expected = variable_shapes(case.architecture.build(case.widths), case.shape)
    found = flax.traverse_util.flatten_dict(small)
    for path, leaf in flax.traverse_util.flatten_dict(dict(expected)).items():
        assert found.pop(path).shape == leaf.shape, path
    assert not found
    assert any(case.widths[name] < full for name, full in case.architecture.widths.items())


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)], ids=["sgd", "adam"]
)
def test_an_optimiser_is_sliced_like_its_parameters(optimizer):
    case = Case("resnet8")
    state = optimizer.init(case.variables["params"])
    state = jax.tree.map(
        lambda leaf: case.generator.normal(size=leaf.shape).astype(leaf.dtype), state
    )
    found = case.small(state)
    small_params = case.small({"params": case.variables["params"]})["params"]
    fresh = optimizer.init(small_params)
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), found, fresh)
    moments = [state[0].trace] if hasattr(state[0], "trace") else [state[0].mu, state[0].nu]
    sliced = [found[0].trace] if hasattr(found[0], "trace") else [found[0].mu, found[0].nu]
    for full, small in zip(moments, sliced, strict=True):
        expected = case.small({"params": full})["params"]
        jax.tree.map(np.testing.assert_array_equal, small, expected)
    if hasattr(state[0], "mu"):
        np.testing.assert_array_equal(found[0].count, state[0].count)


def test_slices_by_hand():
    """A kernel loses inputs on its second last axis and outputs on its last axis."""
    case = Case("resnet8")
    path = ("branch", "stage2_block1", "conv1")
    full = flax.traverse_util.flatten_dict(case.variables["params"])[(*path, "conv", "kernel")]
    small = flax.traverse_util.flatten_dict(case.small(case.variables)["params"])
    expected = full[:, :, case.kept["stage1"]][..., case.kept["stage2.block1.conv1"]]
    np.testing.assert_array_equal(small[(*path, "conv", "kernel")], expected)
    classifier = case.variables["params"]["branch"]["classifier"]
    np.testing.assert_array_equal(
        small[("branch", "classifier", "kernel")], classifier["kernel"][case.kept["stage3"]]
    )
    np.testing.assert_array_equal(small[("branch", "classifier", "bias")], classifier["bias"])


def test_a_flattened_map_loses_its_channels():
    case = Case("vgg16_bn_imagenet")
    path = ("branch", "dense1", "kernel")
    full = flax.traverse_util.flatten_dict(case.variables["params"])[path]
    channels = case.architecture.widths["stage5.conv3"]
    assert full.shape == (4 * channels, 7)
    small = flax.traverse_util.flatten_dict(case.small(case.variables)["params"])[path]
    kept = case.kept["stage5.conv3"]
    assert len(kept) < channels
    rows = np.concatenate([pixel * channels + kept for pixel in range(4)])
    np.testing.assert_array_equal(small, full[rows])


def test_nothing_dead_changes_nothing():
    case = Case("resnet8", dead=0.0)
    small = flax.traverse_util.flatten_dict(case.small(case.variables))
    for path, leaf in flax.traverse_util.flatten_dict(dict(case.variables)).items():
        np.testing.assert_array_equal(small[path], leaf, err_msg=str(path))


def test_widths_that_break_a_tie_are_refused():
    case = Case("resnet8")
    with pytest.raises(ValueError, match="widths differ in groups that an addition ties: stem"):
        kept_channels(
            case.channels,
            np.ones(len(case.dead)),
            case.dead,
            dict(case.widths) | {"stage1": case.widths["stem"] + 1},
        )

"""VGG with batch normalisation: published counts, layers, pooling, students."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import costs, models, tracing, widths
from kdjax.models.initialize import variable_shapes

NAMES = ("vgg8_bn", "vgg13_bn", "vgg16_bn", "vgg16_bn_imagenet")
CONVOLUTIONS = {"vgg8_bn": (1,) * 5, "vgg13_bn": (2,) * 5}  # Per stage; others: 2, 2, 3, 3, 3.


def flat(tree):
    return flax.traverse_util.flatten_dict(tree)


def uneven(architecture):
    """Returns widths from 1 to 5 that differ between neighbouring groups."""
    return {group: 1 + (3 * index) % 5 for index, group in enumerate(architecture.widths)}


def parameters(net, image_shape):
    return sum(leaf.size for leaf in flat(variable_shapes(net, image_shape)["params"]).values())


def captured(net):
    """A function that applies the network: its outputs, and all modules' outputs by path."""

    def apply(variables, images):
        outputs, state = net.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        return outputs, {path[:-1]: leaf[0] for path, leaf in flat(state["intermediates"]).items()}

    return apply


def counts_by_hand(name, size, dense, classes):
    """Returns parameters and multiply-accumulates at full widths, from the paper's table 1."""
    params = macs = 0
    fan_in, side = 3, size
    convolutions = CONVOLUTIONS.get(name, (2, 2, 3, 3, 3))
    for stage, (channels, count) in enumerate(
        zip((64, 128, 256, 512, 512), convolutions, strict=True)
    ):
        for _ in range(count):
            params += 9 * fan_in * channels + channels + 2 * channels  # bias; scale and bias
            macs += 9 * fan_in * channels * side**2
            fan_in = channels
        if stage < 3 or name not in CONVOLUTIONS:
            side //= 2
    fan_in *= side**2 if dense else 1
    for channels in [*dense, classes]:
        params += fan_in * channels + channels
        macs += fan_in * channels
        fan_in = channels
    return params, macs


@pytest.mark.parametrize(
    ("name", "classes", "size", "dense", "params", "macs"),
    [
        # RepDistiller's models/vgg.py has 3,965,028 and 9,462,180 parameters for CIFAR-100.
        ("vgg8_bn", 100, 32, (), 3_965_028, 96_192_512),
        ("vgg13_bn", 100, 32, (), 9_462_180, 284_936_192),
        ("vgg16_bn", 10, 32, (), 14_728_266, 313_201_664),
        ("vgg16_bn", 100, 32, (), 14_774_436, 313_247_744),
        ("vgg16_bn_imagenet", 1000, 224, (4096, 4096), 138_365_992, 15_470_264_320),
    ],
)
def test_published_counts(name, classes, size, dense, params, macs):
    architecture = models.create(name, num_classes=classes)
    shape = (size, size, 3)
    cost = costs.count(architecture, architecture.widths, shape)
    assert (cost.params, cost.macs) == counts_by_hand(name, size, dense, classes) == (params, macs)
    assert parameters(architecture.build(), shape) == params


def test_full_widths():
    full = models.create("vgg16_bn", num_classes=10).widths
    assert list(full) == [
        f"stage{stage}.conv{number}"
        for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1)
        for number in range(1, convolutions + 1)
    ]
    assert list(full.values()) == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    imagenet = models.create("vgg16_bn_imagenet", num_classes=1000)
    assert imagenet.widths == {**full, "dense1": 4096, "dense2": 4096}
    assert imagenet.shared == ("stage1.conv1",)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("vector", "shape"),
    [("full", (32, 32, 3)), ("uneven", (64, 96, 3)), ("uneven", (17, 40, 1)), ("ones", (8, 8, 1))],
)
def test_traced_layers_are_the_network(name, vector, shape):
    architecture = models.create(name, num_classes=7)
    vectors = {"uneven": uneven(architecture), "ones": dict.fromkeys(architecture.widths, 1)}
    vector = vectors.get(vector, architecture.widths)
    net = architecture.build(vector)
    params = flat(variable_shapes(net, shape)["params"])
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, outputs = jax.eval_shape(captured(net), variable_shapes(net, shape), images)
    outputs = {path: leaf.shape for path, leaf in outputs.items() if hasattr(leaf, "shape")}
    traced = tracing.trace(net, shape)
    for layer, cost in zip(traced.layers, tracing.layer_costs(traced), strict=True):
        kernel = params[layer.kernel[1:]].shape
        normalised = (*layer.path[:-1], "norm", "scale") in params
        path = layer.path[:-1] if normalised else layer.path
        assert cost.activations == np.prod(outputs[path]), layer.path
        # Every kernel element is multiplied once at each position of the output.
        assert cost.macs == np.prod(kernel) * np.prod(outputs[path][1:-1]), layer.path
        own = [leaf.size for where, leaf in params.items() if where[: len(path)] == path]
        assert cost.params == sum(own), layer.path
    assert tracing.count(traced).params == sum(leaf.size for leaf in params.values())


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("vgg16_bn", (32, 32, 3), [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]),
        ("vgg16_bn", (17, 40, 1), [(9, 20), (5, 10), (3, 5), (2, 3), (1, 2)]),
        ("vgg13_bn", (32, 32, 3), [(16, 16), (8, 8), (4, 4), (4, 4), (4, 4)]),
    ],
)
def test_a_map_at_the_end_of_each_stage(name, shape, sizes):
    architecture = models.create(name, num_classes=10)
    net = architecture.build()
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    outputs = jax.eval_shape(net.apply, variable_shapes(net, shape), images)
    assert architecture.blocks == ("stage1", "stage2", "stage3", "stage4", "stage5")
    assert [one.shape for one in outputs.features] == [
        (2, *size, channels) for size, channels in zip(sizes, (64, 128, 256, 512, 512), strict=True)
    ]
    assert (outputs.logits.shape, outputs.logits.dtype) == ((2, 10), jnp.float32)


def test_the_stem_of_vgg8_is_its_first_stage():
    architecture = models.create("vgg8_bn", num_classes=10)
    assert architecture.blocks == ("stage2", "stage3", "stage4", "stage5")
    assert architecture.widths == {
        f"stage{number}.conv1": channels
        for number, channels in enumerate((64, 128, 256, 512, 512), start=1)
    }
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    net = architecture.build()
    outputs = jax.eval_shape(net.apply, variable_shapes(net, (32, 32, 3)), images)
    sizes = [one.shape[1:] for one in outputs.features]
    assert sizes == [(8, 8, 128), (4, 4, 256), (4, 4, 512), (4, 4, 512)]


def test_pooling_and_flattening_by_hand():
    architecture = models.create("vgg16_bn_imagenet", num_classes=3)
    vector = {**dict.fromkeys(architecture.widths, 2), "stage5.conv3": 3, "dense1": 5}
    net = architecture.build(vector)
    shape = (64, 96, 1)
    variables = models.initialize(net, 4, shape)
    images = np.random.default_rng(4).standard_normal((1, *shape)).astype(np.float32)
    outputs, modules = jax.jit(captured(net))(variables, images)
    rectified = np.maximum(modules["branch", "stage1_conv2"], 0)
    pooled = rectified.reshape(1, 32, 2, 48, 2, 2).max(axis=(2, 4))
    np.testing.assert_array_equal(outputs.features[0], pooled)
    last = np.asarray(outputs.features[-1])
    assert last.shape == (1, 2, 3, 3) and np.std(last) > 0
    params = variables["params"]["branch"]
    hidden = np.einsum("bhwc,hwcd->bd", last, params["dense1"]["kernel"].reshape(2, 3, 3, 5))
    np.testing.assert_allclose(modules["branch", "dense1"], hidden, rtol=1e-4, atol=1e-5)
    for name in ("dense2", "classifier"):
        hidden = np.maximum(hidden, 0) @ params[name]["kernel"]
    np.testing.assert_allclose(outputs.logits, hidden, rtol=1e-4, atol=1e-5)


def test_kernels_have_the_variance_of_their_fan_in_and_biases_are_zero():
    net = models.create("vgg16_bn_imagenet", num_classes=10, width=0.25).build()
    params = flat(models.initialize(net, 0, (32, 64, 3))["params"]["branch"])
    expected = {
        ("stage5_conv3", "conv", "kernel"): 2 / (9 * 128),
        ("dense1", "kernel"): 2 / (1 * 2 * 128),
        ("dense2", "kernel"): 2 / 1024,
        ("classifier", "kernel"): 1 / 1024,
    }
    for path, variance in expected.items():
        tolerance = 4 / np.sqrt(2 * params[path].size)
        assert np.std(params[path]) == pytest.approx(np.sqrt(variance), rel=tolerance), path
    for path in (("stage5_conv3", "conv", "bias"), ("dense1", "bias"), ("classifier", "bias")):
        assert not params[path].any(), path


@pytest.mark.parametrize("name", NAMES)
def test_students_share_the_stem_and_are_extracted(name):
    architecture = models.create(name, num_classes=5, width=0.05)
    # The second student has one channel in the first two stages, two in the last.
    vectors = (architecture.widths, widths.scale(architecture.widths, 0.1, architecture.shared))
    thin = list(vectors[1].values())
    assert thin[:2] == [3, 1] and vectors[1]["stage5.conv1"] == 2
    ensemble = models.StudentEnsemble(architecture, vectors)
    shape = (16, 16, 3)
    generator = np.random.default_rng(1)

    def move(path, leaf):
        noise = 0.3 * generator.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "var":
            return np.exp(noise)
        # Biases are above zero: otherwise a ReLU would silence a layer of one channel.
        shift = 1.0 if (path[-2].key, path[-1].key) == ("norm", "bias") else 0.0
        return leaf if path[-1].key == "kernel" else leaf + shift + noise

    variables = jax.tree_util.tree_map_with_path(move, models.initialize(ensemble, 1, shape))
    assert set(variables["params"]["stem"]["conv"]["conv"]) == {"kernel", "bias"}
    # The images differ in the mean, because little else passes through layers of one channel.
    images = generator.normal([[[[-2.0]]], [[[2.0]]]], 1.0, (2, *shape)).astype(np.float32)
    together = jax.jit(ensemble.apply)(variables, images)
    assert (np.std(together.logits, axis=1).max(axis=-1) > 1e-3).all()  # Logits depend on images.
    for number, vector in enumerate(vectors, start=1):
        student = models.extract_student(variables, number)
        alone = jax.jit(architecture.build(vector).apply)(student, images)
        np.testing.assert_allclose(alone.logits, together.logits[number - 1], atol=1e-5, rtol=1e-5)
        for ours, block in zip(alone.features, together.features, strict=True):
            np.testing.assert_allclose(ours, block[number - 1], atol=1e-5, rtol=1e-5)
    independent = models.IndependentNetworks(architecture, vectors)
    own = models.extract_student(variable_shapes(independent, shape), 2)
    assert own == variable_shapes(architecture.build(vectors[1]), shape)

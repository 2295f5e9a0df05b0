"""MobileNetV2: published counts, layers, ties and residuals, students."""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import costs, models, tracing, widths
from kdjax.models import mobilenet_v2
from kdjax.models.initialize import variable_shapes

NAMES = ("mobilenet_v2", "mobilenet_v2_imagenet")


def flat(tree):
    return flax.traverse_util.flatten_dict(tree)


def uneven(architecture):
    """Returns widths from 1 to 5 that differ between neighbouring groups."""
    return {group: 1 + (3 * index) % 5 for index, group in enumerate(architecture.widths)}


def parameters(net, image_shape):
    return sum(leaf.size for leaf in flat(variable_shapes(net, image_shape)["params"]).values())


def output_shapes(net, image_shape):
    """Returns the shapes of all modules' outputs, by path."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    apply = functools.partial(net.apply, capture_intermediates=True, mutable=["intermediates"])
    _, state = jax.eval_shape(apply, variable_shapes(net, image_shape), images)
    returned = {path[:-1]: leaf[0] for path, leaf in flat(state["intermediates"]).items()}
    return {path: leaf.shape for path, leaf in returned.items() if hasattr(leaf, "shape")}


def macs_by_hand(size, stem_stride, stage2_stride, classes):
    """Returns multiply-accumulates at full widths, summed over the rows of the paper's table 2."""
    side = size // stem_stride
    total = 9 * 3 * 32 * side**2
    fan_in = 32
    rows = [(1, 16, 1, 1), (6, 24, 2, stage2_stride), (6, 32, 3, 2), (6, 64, 4, 2)]
    rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, channels, blocks, stride in rows:
        for step in [stride] + [1] * (blocks - 1):
            hidden = expansion * fan_in
            if expansion > 1:
                total += fan_in * hidden * side**2
            side //= step
            total += (9 * hidden + hidden * channels) * side**2
            fan_in = channels
    return total + 320 * 1280 * side**2 + 1280 * classes


@pytest.mark.parametrize(
    ("name", "classes", "size", "params", "macs"),
    [
        ("mobilenet_v2", 10, 32, 2_236_682, 87_976_448),
        ("mobilenet_v2", 100, 32, 2_351_972, 88_091_648),
        ("mobilenet_v2_imagenet", 1000, 224, 3_504_872, 300_774_272),
    ],
)
def test_published_counts(name, classes, size, params, macs):
    architecture = models.create(name, num_classes=classes)
    shape = (size, size, 3)
    cost = costs.count(architecture, architecture.widths, shape)
    assert cost.params == parameters(architecture.build(), shape) == params
    strides = (2, 2) if "imagenet" in name else (1, 1)
    assert cost.macs == macs_by_hand(size, *strides, classes) == macs


def test_full_widths():
    full = models.create("mobilenet_v2", num_classes=10).widths
    assert [full[f"stage{number}"] for number in range(1, 8)] == [16, 24, 32, 64, 96, 160, 320]
    assert (full["stem"], full["head"]) == (32, 1280)
    # Six times the channels that the block reads: of the stage before, then of its own stage.
    assert [full[f"stage3.block{number}.expand"] for number in (1, 2, 3)] == [144, 192, 192]
    assert len(full) == 1 + 7 + 16 + 1  # stem, stages, the blocks that expand, head
    assert full == models.create("mobilenet_v2_imagenet", num_classes=1000).widths


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("vector", "shape"),
    [("full", (32, 32, 3)), ("uneven", (32, 32, 3)), ("uneven", (17, 40, 1)), ("ones", (8, 8, 1))],
)
def test_traced_layers_are_the_network(name, vector, shape):
    architecture = models.create(name, num_classes=7)
    vectors = {"uneven": uneven(architecture), "ones": dict.fromkeys(architecture.widths, 1)}
    vector = vectors.get(vector, architecture.widths)
    net = architecture.build(vector)
    params = flat(variable_shapes(net, shape)["params"])
    outputs = output_shapes(net, shape)
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
    ("name", "size", "sides"),
    [
        ("mobilenet_v2", 32, (32, 32, 16, 8, 8, 4, 4)),
        ("mobilenet_v2_imagenet", 224, (112, 56, 28, 14, 14, 7, 7)),
    ],
)
def test_a_map_after_each_stage(name, size, sides):
    architecture = models.create(name, num_classes=10)
    shape = (size, size, 3)
    net = architecture.build()
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    outputs = jax.eval_shape(net.apply, variable_shapes(net, shape), images)
    assert architecture.blocks == tuple(f"stage{number}" for number in range(1, 8))
    assert [one.shape for one in outputs.features] == [
        (2, side, side, architecture.widths[block])
        for block, side in zip(architecture.blocks, sides, strict=True)
    ]
    assert (outputs.logits.shape, outputs.logits.dtype) == ((2, 10), jnp.float32)


@pytest.mark.parametrize(("number", "residual"), [(1, False), (2, True)])
def test_all_but_the_first_block_of_a_stage_add_their_input(number, residual):
    architecture = models.create("mobilenet_v2", num_classes=10)
    # Both blocks could add their input, because they read as many channels as they write.
    vector = dict.fromkeys(architecture.widths, 2)
    (plan,) = (p for p in architecture.plan(vector) if p.name == f"stage5_block{number}")
    block = mobilenet_v2.InvertedResidual(plan)
    x = np.random.default_rng(0).standard_normal((1, 3, 3, 2)).astype(np.float32)
    variables = block.init(jax.random.key(0), x, False, None)
    variables["params"]["project"]["norm"]["scale"] = jnp.zeros(2)
    np.testing.assert_array_equal(block.apply(variables, x, False, None), x if residual else 0 * x)


def test_a_block_by_hand():
    plan = mobilenet_v2.BlockPlan("b", "out", 2, 1, stride=1, expand=True, residual=False)
    block = mobilenet_v2.InvertedResidual(plan)
    x = np.array([1.0, -2.0, 5.0], np.float32).reshape(1, 3, 1, 1)
    variables = block.init(jax.random.key(0), x, False, None)
    params = variables["params"]
    # The running variance is 1, so only epsilon scales. Hidden channels are 2 x and -x, with ReLU6.
    params["expand"]["conv"]["kernel"] = np.array([2.0, -1.0]).reshape(1, 1, 1, 2)
    # On a map one pixel wide only the middle column of the depthwise kernel is used: the first
    # channel adds its upper neighbour, the second is doubled.
    depthwise = np.full((3, 3, 1, 2), 100.0)
    depthwise[:, 1, 0] = [[1.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    params["depthwise"]["conv"]["kernel"] = depthwise
    params["project"]["conv"]["kernel"] = np.array([1.0, -10.0]).reshape(1, 1, 2, 1)
    # Expanded: (2, 0, 6) and (0, 2, 0); depthwise: (2, 2, 6) and (0, 4, 0); linear projection.
    actual = block.apply(variables, x, False, None)
    np.testing.assert_allclose(actual.ravel(), [2.0, 2.0 - 40.0, 6.0], rtol=1e-4)


def test_the_stem_is_cut_at_six():
    stem = mobilenet_v2.Stem(1, stride=2)
    x = np.linspace(-9, 9, 25, dtype=np.float32).reshape(1, 5, 5, 1)
    variables = stem.init(jax.random.key(0), x, False, None)
    kernel = np.zeros((3, 3, 1, 1))
    kernel[1, 1] = 1.0
    variables["params"]["conv"]["conv"]["kernel"] = kernel
    expected = nn.relu(np.minimum(x[:, ::2, ::2], 6.0))
    np.testing.assert_allclose(stem.apply(variables, x, False, None), expected, rtol=1e-4)
    assert expected.min() == 0.0 and expected.max() == 6.0


def test_kernels_have_the_variance_of_their_fan_in():
    params = models.initialize(models.create("mobilenet_v2", 10).build(), 0)["params"]["branch"]
    expected = {
        ("stage7_block1", "depthwise", "conv", "kernel"): 2 / 9,  # [3, 3, 1, 960]
        ("stage7_block1", "expand", "conv", "kernel"): 2 / 160,
        ("classifier", "kernel"): 1 / 1280,
    }
    for path, variance in expected.items():
        kernel = flat(params)[path]
        tolerance = 4 / np.sqrt(2 * kernel.size)
        assert np.std(kernel) == pytest.approx(np.sqrt(variance), rel=tolerance), path


def test_students_share_the_stem_and_are_extracted():
    architecture = models.create("mobilenet_v2", num_classes=5, width=0.1)
    # The second student has 0.4 of the pivot's 1, 2, 3, 6, 9, 16 and 32 channels, and its stem.
    vectors = (architecture.widths, widths.scale(architecture.widths, 0.4, architecture.shared))
    thin = [vectors[1][group] for group in ("stem", *architecture.blocks)]
    assert thin == [3, 1, 1, 1, 2, 3, 6, 12]
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

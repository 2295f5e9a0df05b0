"""The paper's network families: small networks of each, checked by hand and as ensembles."""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.models import (
    densenet,
    efficientnet,
    imagenet_resnet,
    wide_resnet,
)
from kdjax.models.initialize import variable_shapes
from kdjax.widths import WidthVector

SHAPE = (16, 16, 3)


def small_densenet(imagenet):
    layers_per_block = (2, 1, 1)
    widths = densenet.width_vector(layers_per_block, growth=5, stem=6)
    return densenet.DenseNet("small", 3, widths, layers_per_block, imagenet)


def small_resnet(**block):
    variant = imagenet_resnet.Variant((1, 1, 1, 1), **block)
    planes = {f"stage{number}": 4 * number for number in range(1, 5)}
    widths = imagenet_resnet.width_vector(variant, 6, planes)
    return imagenet_resnet.ImageNetResNet("small", 3, widths, variant)


def small_wide_resnet():
    inner = {f"stage{stage}.block1.conv1": 5 + stage for stage in (1, 2, 3)}
    widths = WidthVector({"stem": 6, "stage1": 6, "stage2": 8, "stage3": 10} | inner)
    return wide_resnet.WideResNet("small", 3, widths, blocks_per_stage=1)


def small_efficientnet(**rates):
    width, depth = 0.25, 0.3  # One block in each stage, two in stage 6.
    widths = efficientnet.width_vector(width, depth, stem=8)
    return efficientnet.EfficientNet("small", 3, widths, width, depth, **rates)


SMALL = {
    "densenet": functools.partial(small_densenet, imagenet=False),
    "densenet_imagenet": functools.partial(small_densenet, imagenet=True),
    "resnet": functools.partial(small_resnet, bottleneck=False),
    "resnext": functools.partial(small_resnet, cardinality=2),
    "wide_resnet": small_wide_resnet,
    "efficientnet": small_efficientnet,
}
FAMILIES = pytest.mark.parametrize("family", SMALL)


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def images_of(batch, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *SHAPE)).astype(np.float32)


def trained_like(net):
    """Returns random variables: also scales, biases and running statistics differ from defaults."""
    generator = np.random.default_rng(7)

    def move(path, leaf):
        noise = 0.3 * generator.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "var":
            return np.exp(noise)
        # Biases are above zero: otherwise a ReLU would silence channels of a narrow layer.
        shift = 1.0 if (path[-2].key, path[-1].key) == ("norm", "bias") else 0.0
        return leaf if path[-1].key == "kernel" else leaf + shift + noise

    return jax.tree_util.tree_map_with_path(move, models.initialize(net, 0, SHAPE))


# Ensembles


@FAMILIES
def test_an_extracted_student_computes_what_it_does_in_the_ensemble(family):
    architecture = SMALL[family]()
    vectors = models.student_vectors(architecture, (1.0, 0.6))
    ensemble = models.StudentEnsemble(architecture, vectors)
    variables = trained_like(ensemble)

    @jax.jit
    def run(variables, images):
        students = [models.extract_student(variables, number) for number in (1, 2)]
        nets = [architecture.build(vector) for vector in vectors]
        alone = [net.apply(own, images) for net, own in zip(nets, students, strict=True)]
        return ensemble.apply(variables, images), alone

    together, alone = run(variables, images_of(2))
    assert np.std(together.logits, axis=1).max(axis=-1).min() > 1e-3  # Logits depend on the images.
    assert len(together.features) == len(architecture.blocks)
    for place, own in enumerate(alone):
        np.testing.assert_allclose(own.logits, together.logits[place], rtol=1e-5, atol=1e-5)
        for ours, block in zip(own.features, together.features, strict=True):
            np.testing.assert_allclose(ours, block[place], rtol=1e-5, atol=1e-5)
    for block in range(len(architecture.blocks)):
        assert together.adapted[block][0].shape == together.features[block][0].shape


@FAMILIES
def test_a_student_among_independent_networks_is_its_network(family):
    architecture = SMALL[family]()
    vectors = models.student_vectors(architecture, (1.0, 0.6))
    shapes = variable_shapes(models.IndependentNetworks(architecture, vectors), SHAPE)
    own = variable_shapes(architecture.build(vectors[1]), SHAPE)
    assert models.extract_student(shapes, 2) == own


@FAMILIES
def test_logits_are_float32_and_maps_of_the_computation_type(family):
    net = SMALL[family]().build(dtype=jnp.bfloat16)
    shapes = variable_shapes(net, SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    outputs = jax.eval_shape(net.apply, shapes, jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32))
    assert outputs.logits.dtype == jnp.float32
    assert {feature.dtype for feature in outputs.features} == {jnp.dtype("bfloat16")}


@FAMILIES
def test_training_moves_every_parameter_and_padding_none(family):
    net = SMALL[family]().build()
    variables = trained_like(net)
    mask = np.array([True, True, False, True])
    direction = np.random.default_rng(1).standard_normal((4, 3))

    @jax.jit
    def gradient(images):
        def total(params):
            outputs, state = net.apply(
                {**variables, "params": params}, images, True, mask, mutable=["batch_stats"]
            )
            return jnp.sum(outputs.logits * direction, where=mask[:, None]), state

        return jax.grad(total, has_aux=True)(variables["params"])

    images = images_of(4)
    found = gradient(images)
    other = gradient(np.where(mask[:, None, None, None], images, 100 * images_of(4, seed=1)))
    for path, leaf in flat(found[0]).items():
        assert np.isfinite(leaf).all() and np.any(leaf), path
        np.testing.assert_allclose(flat(other[0])[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)
    for path, leaf in flat(found[1]).items():
        assert np.all(leaf != flat(variables)[path]), path
        np.testing.assert_allclose(flat(other[1])[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


class Odd(nn.Module):
    """A module whose variables use every kind of initialiser."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(40, kernel_init=nn.initializers.normal(0.5), name="wide")(x)
        x = nn.Conv(40, (3, 3), kernel_init=nn.initializers.he_normal(), name="conv")(x)
        x = nn.Dense(50, kernel_init=nn.initializers.orthogonal(), name="dense1")(x)
        x = nn.BatchNorm(True, scale_init=nn.initializers.constant(0.25), name="norm")(x)
        gamma = self.param("gamma", nn.initializers.uniform(2.0), (2000,))
        steps = self.variable("batch_stats", "steps", lambda: jnp.full((3,), 7.0))
        return x.mean() + gamma.sum() + steps.value.sum()


def test_variables_start_by_their_modules_own_initialisers():
    found = flat(models.initialize(Odd(), 0, SHAPE))
    assert set(found) == set(flat(variable_shapes(Odd(), SHAPE)))
    assert np.std(found["params/wide/kernel"]) == pytest.approx(0.5, rel=0.3)  # 120 numbers.
    assert np.std(found["params/conv/kernel"]) == pytest.approx(np.sqrt(2 / 360), rel=0.03)
    kernel = found["params/dense1/kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(40), atol=1e-5)
    assert set(found["params/norm/scale"].tolist()) == {0.25}
    gamma = found["params/gamma"]
    assert 0 <= gamma.min() < 0.1 < 1.9 < gamma.max() <= 2
    assert gamma.mean() == pytest.approx(1, abs=0.06)  # 4 deviations: 4 * 2 / sqrt(12 * 2000).
    np.testing.assert_array_equal(found["batch_stats/steps"], [7, 7, 7])
    other = flat(models.initialize(Odd(), 1, SHAPE))
    for path in ("params/wide/kernel", "params/conv/kernel", "params/dense1/kernel"):
        assert np.any(other[path] != found[path]), path
    assert all(leaf.dtype == np.float32 for leaf in found.values())


def test_a_variable_that_cannot_be_seen_is_named():
    class Stacked(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.vmap(
                nn.Dense,
                in_axes=None,
                axis_size=2,
                variable_axes={"params": 0},
                split_rngs={"params": True},
            )
            return dense(4, name="pair")(x)

    with pytest.raises(ValueError, match=r"params/pair/\w+ is a variable whose initialiser cannot"):
        models.initialize(Stacked(), 0, SHAPE)


@FAMILIES
def test_families_start_as_their_modules_say(family):
    found = flat(models.initialize(SMALL[family]().build(), 0, SHAPE)["params"])
    constants = {"bias": 0.0, "scale": 1.0}
    for path, leaf in found.items():
        *_, module, name = path.split("/")
        if name in constants:
            assert set(leaf.ravel().tolist()) == {constants[name]}, path
        elif leaf.size > 300:
            # He's variance for convolutions, Flax's own for the dense layers.
            scale = 2 if module == "conv" else 1
            deviation = np.sqrt(scale / np.prod(leaf.shape[:-1]))
            tolerance = 4 / np.sqrt(2 * leaf.size)
            assert np.std(leaf) == pytest.approx(deviation, rel=tolerance), path


# Layers


def zero_last(variables, path):
    leaf = variables["params"]
    for name in path[:-1]:
        leaf = leaf[name]
    leaf[path[-1]] = jnp.zeros_like(leaf[path[-1]])
    return variables


def test_a_dense_layer_puts_its_channels_after_those_it_read():
    layer = densenet.DenseLayer(bottleneck=3, growth=2)
    x = images_of(1)
    variables = zero_last(
        layer.init(jax.random.key(0), x, False, None), ("growth", "conv", "kernel")
    )
    y = layer.apply(variables, x, False, None)
    np.testing.assert_array_equal(y, np.concatenate([x, np.zeros_like(x[..., :2])], axis=-1))


def test_images_too_small_for_a_densenet():
    net = small_densenet(imagenet=False).build()
    images = jax.ShapeDtypeStruct((1, 16, 3, 3), jnp.float32)
    message = "images are too small for this network: after block2 a map has 8 x 1 pixels"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("channels", "stride", "project"), [(3, 1, False), (4, 1, True), (3, 2, True)]
)
@pytest.mark.parametrize("family", ["resnet", "bottleneck", "wide_resnet"])
def test_shortcuts(family, channels, stride, project):
    if family == "wide_resnet":
        plan = wide_resnet.BlockPlan("b", "s", 2, channels, stride, project)
        block, last = wide_resnet.PreActivationBlock(plan), ("conv2", "conv", "kernel")
    else:
        inner = {"resnet": (2,), "bottleneck": (2, 2)}[family]
        plan = imagenet_resnet.BlockPlan("b", "s", inner, channels, stride, 1, project)
        block = imagenet_resnet.Block(plan)
        last = (f"conv{len(inner) + 1}", "norm", "scale")
    x = images_of(2)
    variables = zero_last(block.init(jax.random.key(0), x, False, None), last)
    y = block.apply(variables, x, False, None)
    assert y.shape == (2, 16 // stride, 16 // stride, channels)
    assert ("projection" in variables["params"]) == project
    # Without the residual branch only the shortcut is left, rectified after the sum or before it.
    factor = 1 / np.sqrt(1 + 1e-5)
    if not project:
        expected = x if family == "wide_resnet" else np.maximum(x, 0)
    else:
        kernel = variables["params"]["projection"]["conv"]["kernel"][0, 0]
        picked = x[:, ::stride, ::stride]
        if family == "wide_resnet":
            expected = np.maximum(factor * picked, 0) @ kernel
        else:
            expected = np.maximum(factor * (picked @ kernel), 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_gate_by_hand():
    gate = efficientnet.SqueezeExcite(squeeze=1)
    x = np.array([[1.0, 4.0], [3.0, 0.0]], np.float32).reshape(1, 2, 1, 2)  # means 2 and 2
    variables = gate.init(jax.random.key(0), x)
    params = {
        "reduce": {"kernel": np.array([[0.5], [1.0]]), "bias": np.array([-1.0])},
        "excite": {"kernel": np.array([[1.0, 0.0]]), "bias": np.array([0.0, 2.0])},
    }
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, variables["params"])
    swish = 2 / (1 + np.exp(-2))  # of 0.5 * 2 + 1 * 2 - 1
    gates = 1 / (1 + np.exp(-np.array([swish, 2.0])))
    np.testing.assert_allclose(gate.apply({"params": params}, x), x * gates, rtol=1e-6)


# Random drops


def test_rates_rise_with_the_depth():
    plan = list(
        models.create("efficientnet_b0", num_classes=10).plan(
            models.create("efficientnet_b0", num_classes=10).widths
        )
    )
    np.testing.assert_allclose([block.drop for block in plan], 0.2 * np.arange(16) / 16)
    assert [block.name for block in plan if block.residual] == [
        f"stage{stage}_block{number}"
        for stage, blocks in ((2, 2), (3, 2), (4, 3), (5, 3), (6, 4))
        for number in range(2, blocks + 1)
    ]


def test_residual_branches_are_dropped_for_single_examples():
    (plan,) = (
        block
        for block in small_efficientnet(drop_connect=0.5).plan(small_efficientnet().widths)
        if block.residual
    )
    assert plan.drop == 0.5 * 6 / 8
    block = efficientnet.Block(plan)
    x = np.random.default_rng(0).standard_normal((64, 2, 2, plan.channels)).astype(np.float32)
    variables = block.init(jax.random.key(0), x, False, None)

    def branch(**rngs):
        y, _ = block.apply(variables, x, True, None, mutable=["batch_stats"], rngs=rngs)
        return np.asarray(y) - x

    whole, dropped = branch(), branch(dropout=jax.random.key(1))
    kept = np.any(dropped != 0, axis=(1, 2, 3))
    expected = np.where(kept[:, None, None, None], whole / (1 - plan.drop), 0.0)
    np.testing.assert_allclose(dropped, expected, rtol=1e-4, atol=1e-5)
    # 64 draws at .625 keep 40, within four deviations, 4 * sqrt(64 * .625 * .375) = 15.5.
    assert 25 <= kept.sum() <= 55
    np.testing.assert_array_equal(branch(dropout=jax.random.key(1)), dropped)
    assert np.any(branch(dropout=jax.random.key(2)) != dropped)
    evaluated = block.apply(variables, x, False, None, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(evaluated, block.apply(variables, x, False, None))


def test_the_classifier_reads_through_dropout_while_training_with_a_key():
    net = small_efficientnet(dropout=0.5, drop_connect=0.0).build()
    variables = trained_like(net)
    images = np.repeat(images_of(1), 8, axis=0)

    @functools.partial(jax.jit, static_argnums=0)
    def logits(train, rngs):
        found, _ = net.apply(variables, images, train, mutable=["batch_stats"], rngs=rngs)
        return found.logits

    def differ(found):
        return bool(np.any(np.abs(found - found[0]) > 1e-4))

    key = jax.random.key(3)
    assert differ(logits(True, {"dropout": key}))  # Equal images have different draws.
    assert not differ(logits(True, {}))
    assert not differ(logits(False, {"dropout": key}))

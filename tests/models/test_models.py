"""Networks and ensembles: variable trees, initial values, extraction, shapes."""

import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models, widths
from kdjax.models.ensemble import student_vectors

SHAPE = (8, 8, 1)


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def assert_trees_equal(actual, expected):
    actual, expected = flat(actual), flat(expected)
    assert set(actual) == set(expected)
    for path, leaf in expected.items():
        np.testing.assert_array_equal(actual[path], leaf, err_msg=path)


@functools.cache
def small(students=3, channels=4):
    """Returns a narrow ResNet8 (groups of 4, 8 and 16 channels) and an ensemble of it."""
    architecture = models.create("resnet8", num_classes=5, width=channels / 16)
    vectors = student_vectors(architecture, (1.0, 0.6, 0.3, 0.25)[:students])
    return architecture, models.StudentEnsemble(architecture, vectors)


def images_of(batch, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


@functools.cache
def trained_like():
    """Returns variables whose leaves, also running statistics, differ from their initial values."""
    _, ensemble = small()
    generator = np.random.default_rng(7)

    def move(path, leaf):
        noise = generator.standard_normal(leaf.shape).astype(np.float32)
        return np.exp(0.3 * noise) if path[-1].key == "var" else leaf + 0.3 * noise

    return jax.tree_util.tree_map_with_path(move, models.initialize(ensemble, 0, SHAPE))


# Names


def test_an_unknown_network_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"unknown network 'resnet21' \(did you mean") as caught:
        models.create("resnet21", num_classes=10)
    for name in ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        assert re.search(rf"\b{name}\b", str(caught.value))
        assert name in models.names()


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_a_network_needs_two_classes(classes):
    with pytest.raises(ValueError, match=f"num_classes is {classes}: it must be at least 2"):
        models.create("resnet8", num_classes=classes)


def test_full_widths_and_their_multiple():
    assert models.create("resnet8", num_classes=10).widths == {
        "stem": 16,
        "stage1": 16,
        "stage1.block1.conv1": 16,
        "stage2": 32,
        "stage2.block1.conv1": 32,
        "stage3": 64,
        "stage3.block1.conv1": 64,
    }
    assert set(models.create("resnet8", num_classes=10, width=0.03).widths.values()) == {1}
    halved = models.create("resnet110", num_classes=10, width=0.5).widths
    assert len(halved) == 4 + 3 * 18
    assert (halved["stem"], halved["stage3"], halved["stage3.block18.conv1"]) == (8, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage2": 0}, "widths['stage2'] is 0"),
        ({"stage2": 1.5}, "widths['stage2'] is 1.5"),
        ({"stage4": 4}, "unknown groups ['stage4']"),
    ],
)
def test_build_names_the_group_that_does_not_fit(change, message):
    architecture, _ = small()
    with pytest.raises(ValueError, match=re.escape(message)):
        architecture.build({**architecture.widths, **change})


# Initial values


def compared_modules():
    architecture = models.create("resnet8", num_classes=10)
    vectors = student_vectors(architecture, (1.0, 0.6))
    return {
        "network": architecture.build(vectors[1]),
        "ensemble": models.StudentEnsemble(architecture, vectors),
        "independent": models.IndependentNetworks(architecture, vectors),
    }


@pytest.mark.parametrize("kind", ["network", "ensemble", "independent"])
def test_initialize_gives_the_tree_of_init(kind):
    net = compared_modules()[kind]
    ours = flat(models.initialize(net, seed=0))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    theirs = flat(jax.eval_shape(net.init, jax.random.key(0), images))
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in ours.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in theirs.items()
    }
    assert all(isinstance(leaf, np.ndarray) for leaf in ours.values())


def test_initialize_draws_from_the_distributions_of_init():
    net = compared_modules()["ensemble"]
    ours = flat(models.initialize(net, seed=0))
    # This random generator compiles in a tenth of the default one's time.
    key = jax.random.key(0, impl="rbg")
    theirs = flat(jax.jit(net.init)(key, jnp.zeros((1, 8, 8, 3))))
    compared = 0
    for path, leaf in theirs.items():
        if not path.endswith("kernel"):
            np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
        elif leaf.size >= 2000:
            compared += 1
            tolerance = 5 / np.sqrt(leaf.size)
            assert np.std(ours[path]) == pytest.approx(np.std(leaf), rel=tolerance), path
            assert abs(ours[path].mean()) < tolerance * np.std(leaf), path
            assert np.abs(ours[path]).max() == pytest.approx(np.abs(leaf).max(), rel=0.02), path
    assert compared >= 8


def test_kernels_have_the_variance_of_their_fan_in():
    ours = flat(models.initialize(compared_modules()["ensemble"], seed=3)["params"])
    # He's variance, 2 / (9 * 64), before a ReLU; LeCun's, 1 / 64 and 1 / 38, elsewhere.
    expected = {
        "student_1/stage3_block1/conv2/conv/kernel": np.sqrt(2 / (9 * 64)),
        "student_1/classifier/kernel": np.sqrt(1 / 64),
        "adapters/student_2_block3/kernel": np.sqrt(1 / 38),
    }
    for path, deviation in expected.items():
        tolerance = 4 / np.sqrt(2 * ours[path].size)
        assert np.std(ours[path]) == pytest.approx(deviation, rel=tolerance), path


def test_initialize_is_decided_by_the_seed():
    _, ensemble = small()
    first = models.initialize(ensemble, 5, SHAPE)
    assert_trees_equal(models.initialize(ensemble, 5, SHAPE), first)
    other = flat(models.initialize(ensemble, 6, SHAPE))
    for path, leaf in flat(first).items():
        assert np.array_equal(other[path], leaf) != path.endswith("kernel"), path


def test_kernels_of_equal_shape_start_differently():
    architecture, _ = small()
    twins = models.StudentEnsemble(architecture, (architecture.widths,) * 3)
    kernels = [
        leaf.tobytes()
        for path, leaf in flat(models.initialize(twins, 0, SHAPE)).items()
        if path.endswith("kernel")
    ]
    assert len(set(kernels)) == len(kernels)


def test_a_network_starts_alike_whoever_stands_beside_it():
    architecture, ensemble = small()
    wide, thin = ensemble.student_widths[:2]
    rows = [(wide, thin), (thin, thin), (thin,)]
    starts = [
        models.initialize(models.IndependentNetworks(architecture, row), 3, SHAPE) for row in rows
    ]
    alone = models.initialize(architecture.build(thin), 3, SHAPE)
    for start, number in zip(starts, (2, 2, 1), strict=True):
        assert_trees_equal(models.extract_student(start, number), alone)


def test_the_pivot_starts_as_the_network_alone():
    architecture, ensemble = small()
    alone = models.initialize(architecture.build(), 2, SHAPE)
    together = models.initialize(ensemble, 2, SHAPE)
    assert_trees_equal(models.extract_student(together, 1), alone)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_students_branches_start_as_those_of_the_baselines(number):
    architecture, ensemble = small()
    baselines = models.IndependentNetworks(architecture, ensemble.student_widths)
    branch = models.initialize(ensemble, 2, SHAPE)["params"][f"student_{number}"]
    baseline = models.initialize(baselines, 2, SHAPE)["params"][f"student_{number}"]
    assert_trees_equal(branch, baseline["branch"])


def test_a_deep_ensemble_is_initialized_on_the_host():
    architecture = models.create("resnet110", num_classes=100)
    vectors = student_vectors(architecture, (1.0, 0.8, 0.6, 0.4, 0.2))
    params = models.initialize(models.StudentEnsemble(architecture, vectors), 0)["params"]
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves({"s": params["stem"], "b": params[name]}))
        for name in (f"student_{number}" for number in range(1, 6))
    ]
    assert sizes == [1_736_564, 1_091_396, 613_708, 264_501, 64_233]


# The ensemble


def test_the_parameter_tree_of_an_ensemble():
    variables = models.initialize(small()[1], 0, SHAPE)
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"stem", "student_1", "student_2", "student_3", "adapters"}
    assert set(variables["batch_stats"]) == {"stem", "student_1", "student_2", "student_3"}
    # Adapters lead from a student's 2, 4 and 9 channels (0.6 of 4, 8, 16, floored) to the pivot's.
    adapters = variables["params"]["adapters"]
    assert {name: adapter["kernel"].shape for name, adapter in adapters.items()} == {
        "student_2_block1": (1, 1, 2, 4),
        "student_2_block2": (1, 1, 4, 8),
        "student_2_block3": (1, 1, 9, 16),
        "student_3_block1": (1, 1, 1, 4),
        "student_3_block2": (1, 1, 2, 8),
        "student_3_block3": (1, 1, 4, 16),
    }


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (32, 32, 3), (64, 64, 1)])
def test_outputs_at_any_image_shape(shape):
    _, ensemble = small()
    variables = models.initialize(ensemble, 0, shape)
    outputs = jax.jit(ensemble.apply)(variables, images_of(2, shape))
    height, width, _ = shape
    sizes = [(-(-height // step), -(-width // step)) for step in (1, 2, 4)]
    assert outputs.logits.shape == (3, 2, 5)
    assert outputs.logits.dtype == jnp.float32
    assert [[one.shape for one in block] for block in outputs.features] == [
        [(2, *size, channels) for channels in block]
        for size, block in zip(sizes, [(4, 2, 1), (8, 4, 2), (16, 9, 4)], strict=True)
    ]
    assert [[one.shape for one in block] for block in outputs.adapted] == [
        [(2, *size, channels)] * 2 for size, channels in zip(sizes, (4, 8, 16), strict=True)
    ]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
    assert np.std(outputs.logits) > 0.01


def test_outputs_of_one_network():
    architecture, _ = small()
    net = architecture.build()
    outputs = jax.eval_shape(net.apply, models.initialize(net, 0, SHAPE), images_of(2))
    assert outputs.logits.shape == (2, 5)
    assert [one.shape for one in outputs.features] == [(2, 8, 8, 4), (2, 4, 4, 8), (2, 2, 2, 16)]
    assert outputs.adapted == ()


def test_logits_are_float32_and_maps_of_the_computation_type():
    architecture, ensemble = small()
    half = models.StudentEnsemble(architecture, ensemble.student_widths, dtype=jnp.bfloat16)
    variables = models.initialize(half, 0, SHAPE)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    outputs = jax.eval_shape(half.apply, variables, images_of(2))
    assert outputs.logits.dtype == jnp.float32
    assert outputs.features[0][0].dtype == outputs.adapted[0][0].dtype == jnp.bfloat16


@functools.cache
def ensemble_outputs():
    return jax.jit(small()[1].apply)(trained_like(), images_of(4))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_extracted_student_computes_what_it_does_in_the_ensemble(number):
    architecture, ensemble = small()
    together = ensemble_outputs()
    net = architecture.build(ensemble.student_widths[number - 1])
    variables = models.extract_student(trained_like(), number)
    alone = jax.jit(net.apply)(variables, images_of(4))
    np.testing.assert_allclose(alone.logits, together.logits[number - 1], rtol=1e-5, atol=1e-5)
    for block, features in enumerate(alone.features):
        expected = together.features[block][number - 1]
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


def test_a_student_of_independent_networks_is_its_sub_tree():
    architecture, ensemble = small()
    baselines = models.IndependentNetworks(architecture, ensemble.student_widths)
    variables = models.initialize(baselines, 0, SHAPE)
    student = models.extract_student(variables, 2)
    assert_trees_equal(student["params"], variables["params"]["student_2"])
    assert_trees_equal(student["batch_stats"], variables["batch_stats"]["student_2"])


@pytest.mark.parametrize("number", [0, 4, -1])
def test_there_is_no_other_student(number):
    with pytest.raises(ValueError, match=f"student is {number}: this ensemble has students 1 to 3"):
        models.extract_student(trained_like(), number)


def test_an_image_is_evaluated_alike_in_any_batch():
    _, ensemble = small()
    together = ensemble_outputs().logits
    apply = jax.jit(ensemble.apply)
    for index, image in enumerate(images_of(4)):
        alone = apply(trained_like(), image[None]).logits[:, 0]
        np.testing.assert_allclose(alone, together[:, index], rtol=1e-5, atol=1e-5)


def test_adapters_are_affine_in_the_students_channels():
    outputs = ensemble_outputs()
    adapter = trained_like()["params"]["adapters"]["student_3_block2"]
    expected = np.asarray(outputs.features[1][2]) @ adapter["kernel"][0, 0] + adapter["bias"]
    np.testing.assert_allclose(outputs.adapted[1][1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [True, False])
def test_the_gradient_into_the_stem_can_be_stopped(stop):
    architecture, ensemble = small(students=2)
    net = models.StudentEnsemble(architecture, ensemble.student_widths, stop_stem_gradient=stop)
    variables = models.initialize(net, 0, SHAPE)

    @functools.partial(jax.jit, static_argnums=0)
    def change_with(part):
        """Returns the logits' derivative along the parameters of one part of the ensemble."""

        def logits(params):
            params = {**variables["params"], part: params}
            return net.apply({**variables, "params": params}, images_of(2)).logits

        params = variables["params"][part]
        return jax.jvp(logits, (params,), (params,))[1]

    assert np.any(change_with("stem")) != stop
    assert np.any(change_with("student_2"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 1), np.float32), r"shape \(8, 8, 1\) and dtype float32: expected floats"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"shape \(2, 8, 8, 1\) and dtype uint8: expected"),
        (np.zeros((2, 8, 8, 1), np.int32), r"shape \(2, 8, 8, 1\) and dtype int32: expected"),
    ],
)
def test_images_have_to_be_a_batch_of_floats(images, message):
    architecture, ensemble = small()
    for net in (
        ensemble,
        architecture.build(),
        models.IndependentNetworks(architecture, ensemble.student_widths),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(net.init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}], "student_widths has 1 entries"),
        ([{}, {"stage1": 5}], "student_widths[1]['stage1'] is 5, wider than the first"),
        ([{}, {"stem": 3}], "student_widths[1]['stem'] is 3: all students share"),
        ([{}, {}, {"stage3": 0}], "student_widths[2]['stage3'] is 0"),
    ],
)
def test_an_ensemble_refuses_widths_that_are_not_one(changes, message):
    architecture, _ = small()
    vectors = tuple(widths.WidthVector({**architecture.widths, **change}) for change in changes)
    net = models.StudentEnsemble(architecture, vectors)
    with pytest.raises(ValueError, match=re.escape(message)):
        models.initialize(net, 0, SHAPE)


# Batch normalisation


def test_padded_examples_do_not_influence_the_others_in_training():
    _, ensemble = small()
    real, padding = images_of(4), 100 * images_of(3, seed=1)
    order = np.array([0, 4, 1, 5, 2, 3, 6])  # Padding in between too.
    mask = order < 4
    train = jax.jit(functools.partial(ensemble.apply, train=True, mutable=["batch_stats"]))
    expected, expected_stats = train(trained_like(), real)
    actual, stats = train(trained_like(), np.concatenate([real, padding])[order], mask=mask)
    np.testing.assert_allclose(actual.logits[:, mask], expected.logits, rtol=1e-4, atol=1e-4)
    for path, leaf in flat(expected_stats).items():
        np.testing.assert_allclose(flat(stats)[path], leaf, rtol=1e-4, atol=1e-5, err_msg=str(path))

"""Execution strategies: the same parameters and the same numbers, however the students run."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.models import IndependentNetworks, StudentEnsemble, resnet
from kdjax.models.ensemble import student_vectors
from kdjax.models.execution import EXECUTIONS, Execution, Mode, execution_named
from kdjax.models.packing import Packing, pack_kernels
from kdjax.widths import WidthVector

ARCHITECTURE = models.create("resnet20", 4, width=0.3)
SCALED = student_vectors(ARCHITECTURE, (1.0, 0.4))
# Two blocks per stage are enough for tests without scanning. Two of three students read the stem's
# map without a projection: their shortcuts lie beside the zeros of the third one's projection.
SHALLOW = resnet.create("resnet14", 14, 4).scaled(0.3)
FEW = tuple(student_vectors(SHALLOW, (1.0, 0.4))[place] for place in (0, 0, 1))
# One block per stage is enough if each student reads its own stem.
SHALLOWEST = models.create("resnet8", 4, width=0.3)
SEPARATE = student_vectors(SHALLOWEST, (1.0, 0.7, 0.4))
# Widths as after a search: blocks of one stage differ, so that not all of them can share a loop.
SEARCHED = tuple(
    WidthVector({**vector, "stage1.block2.conv1": 1, "stage2.block3.conv1": 2 + place})
    for place, vector in enumerate(student_vectors(ARCHITECTURE, (1.0, 0.7, 0.4))[1:])
)


def results(net, variables):
    """Returns logits, maps, running statistics and gradients of training; logits of evaluation."""
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.normal(size=(5, 8, 8, 3)))
    mask = jnp.array([True, True, True, True, False])
    real = mask[:, None, None, None]

    def objective(params):
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        outputs, updated = net.apply(tree, images, train=True, mask=mask, mutable=["batch_stats"])
        total = jnp.sum(jnp.where(real[..., 0, 0], jnp.sin(outputs.logits), 0.0))
        for maps in outputs.features:
            total += sum(jnp.sum(jnp.where(real, jnp.cos(x), 0.0)) for x in maps)
        for adapted in jax.tree.leaves(outputs.adapted):
            total += jnp.sum(jnp.where(real, jnp.sin(adapted), 0.0))
        evaluated = net.apply(tree, images).logits
        kept = jax.tree.map(lambda x: x[:4], (outputs.features, outputs.adapted))
        return total, (outputs.logits[:, :4], kept, updated, evaluated)

    return jax.jit(jax.grad(objective, has_aux=True))(variables["params"])


def make(module, widths, architecture):
    net = module(architecture, widths, dtype=jnp.float64)
    rng = np.random.default_rng(1)
    variables = models.initialize(net, 0, (8, 8, 3))
    return net, jax.tree.map(
        lambda leaf: (
            jnp.asarray(np.abs(leaf + rng.normal(0, 0.2, leaf.shape)) + 0.05)
            if leaf.ndim == 1
            else jnp.asarray(leaf, jnp.float64)
        ),
        variables,
    )


CASES = [
    (StudentEnsemble, FEW, execution_named("packed")),
    (StudentEnsemble, FEW, execution_named("merged")),
    (StudentEnsemble, SCALED, execution_named("scanned", lanes=8)),
    # Only the widest student reads its stem without a projection.
    (IndependentNetworks, SEPARATE, execution_named("merged", lanes=4)),
    (StudentEnsemble, SCALED, execution_named("merged_scanned", lanes=4, remat=True)),
    (IndependentNetworks, SEARCHED, execution_named("merged_scanned")),
]


DEPTHS = {len(each.widths): each for each in (ARCHITECTURE, SHALLOW, SHALLOWEST)}


@functools.cache
def expected_results(module, widths):
    """Returns the network, its variables and the results of running students one by one."""
    with jax.enable_x64(True):
        net, variables = make(module, widths, DEPTHS[len(widths[0])])
        return net, variables, results(net, variables)


@pytest.mark.parametrize("module, widths, execution", CASES)
def test_all_strategies_agree(module, widths, execution):
    net, variables, expected = expected_results(module, widths)
    with jax.enable_x64(True):
        found = results(net.clone(execution=execution), variables)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for (path, ours), theirs in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            # Normalisation computes in float32 in all executions.
            bound = 3e-4 * (1.0 + np.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=str(path))


@pytest.mark.parametrize("students", [1, 2, 3, 4, 5, 6])
def test_every_student_is_in_one_group(students):
    for name in EXECUTIONS:
        groups = execution_named(name).groups(students)
        assert sorted(place for group in groups for place in group) == list(range(students))


def test_pairs_put_the_widest_with_the_thinnest():
    assert execution_named("packed").groups(5) == ((0,), (1, 4), (2, 3))
    assert execution_named("packed").groups(4) == ((0,), (1, 3), (2,))
    assert execution_named("merged_scanned").groups(3) == ((0, 1, 2),)


def test_packed_kernels_lie_on_the_diagonal():
    first, second = jnp.full((1, 1, 2, 1), 3.0), jnp.full((1, 1, 1, 2), 5.0)
    source, target = Packing.of((2, 1), 4), Packing.of((1, 2), 1)
    assert (source.channels, target.channels) == (4, 3)
    packed = pack_kernels([first, second], source, target)[0, 0]
    np.testing.assert_array_equal(packed, [[3, 0, 0], [3, 0, 0], [0, 5, 5], [0, 0, 0]])


def test_a_scanned_network_is_traced_once_per_shape():
    """With scanning, a deeper network has no more operations to compile."""

    def operations(depth):
        architecture = models.create(f"resnet{depth}", 4, width=0.3)
        net = IndependentNetworks(
            architecture, (architecture.widths,), execution=Execution(scan=True)
        )
        shapes = jax.eval_shape(
            net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
        )
        jaxpr = jax.make_jaxpr(
            lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"])[0].logits
        )(shapes, jnp.ones((2, 8, 8, 3)))
        return str(jaxpr).count("conv_general_dilated[")

    assert operations(20) == operations(32) > 0


OWN = f"{Path(__file__).parents[2] / 'configs' / 'networks' / 'forked.py'}:create"
# In these families a convolution reads the stem; a normalisation reads it; blocks join maps.
FAMILIES = [("vgg8_bn", 0.1), ("wrn_16_2", 0.15), (OWN, 0.2)]


@pytest.mark.parametrize(
    "name, width, module, execution",
    [(*family, StudentEnsemble, "merged") for family in FAMILIES]
    + [(*FAMILIES[0], IndependentNetworks, "packed")],
)
def test_other_families_merge_too(name, width, module, execution):
    architecture = models.create(name, 4, width=width)
    widths = student_vectors(architecture, (1.0, 0.7, 0.4))
    with jax.enable_x64(True):
        net, variables = make(module, widths, architecture)
        expected = results(net, variables)
        found = results(net.clone(execution=execution_named(execution)), variables)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        bound = 3e-4 * (1.0 + np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=str(path))


@pytest.mark.parametrize(
    ("name", "width", "has_joint"),
    [("resnet8", 0.3, [True] * 3), ("vgg8_bn", 0.1, [True] * 4), (OWN, 0.2, [False, True])],
)
def test_maps_that_lie_side_by_side_are_returned_whole(name, width, has_joint):
    """Adapters read these maps; a map that blocks join is not one, as students' parts alternate."""
    architecture = models.create(name, 4, width=width)
    vectors = student_vectors(architecture, (1.0, 0.7, 0.4))
    images = jnp.asarray(np.random.default_rng(2).normal(size=(2, 32, 32, 3)), jnp.float32)
    net = StudentEnsemble(architecture, vectors)
    variables = models.initialize(net, 0, (32, 32, 3))
    stem = jax.jit(lambda *given: architecture.stem(vectors[0]).apply(*given, False, None))(
        {key: tree["stem"] for key, tree in variables.items()}, images
    )
    students = [
        {key: tree[f"student_{number}"] for key, tree in variables.items()} for number in (1, 2, 3)
    ]
    mode = Mode(False, None, jnp.float32, None)

    def run(execution):
        branches = functools.partial(architecture.run_branches, vectors)
        return jax.jit(lambda *arrays: branches(*arrays, mode, execution, (32, 32, 3)))(
            students, stem
        )

    merged = run(execution_named("merged"))
    blocks = list(zip(*(own.features for own in merged.outputs), strict=True))
    assert len(merged.joint) == len(blocks)
    for joint, maps in zip(merged.joint, blocks, strict=True):
        if joint is not None:
            np.testing.assert_array_equal(joint, jnp.concatenate(maps, axis=-1))
    assert [joint is not None for joint in merged.joint] == has_joint
    assert run(execution_named("packed")).joint == ()  # No map holds all students.
    if name == "resnet8":
        padded = run(execution_named("merged", lanes=8)).joint
        for wide, joint in zip(padded, merged.joint, strict=True):
            size = joint.shape[-1]
            assert wide.shape[-1] == -(-size // 8) * 8
            np.testing.assert_allclose(wide[..., :size], joint, atol=1e-4)
            np.testing.assert_array_equal(wide[..., size:], 0.0)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "efficientnet_b0"])
def test_families_that_cannot_be_merged_say_so(name):
    """ResNeXt keeps its number of groups; in EfficientNet each student drops its own branches."""
    architecture = models.create(name, 4, width=0.1)
    assert architecture.executions == ("sequential",)
    with pytest.raises(ValueError, match=f"{name} has no other execution than sequential"):
        architecture.run_branches((), (), None, None, execution_named("merged"), (32, 32, 3))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="execution is 'fast': one of sequential, scanned"):
        execution_named("fast")

"""The channels that live and die together in each family, and the matrix of their scales."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tables
from tables import Layer

from kdjax import models
from kdjax.models import densenet
from kdjax.models.initialize import variable_shapes
from kdjax.search import Channels

SHAPE = (16, 16, 3)
NETWORKS = [
    ("resnet8", 0.25),
    ("mobilenet_v2", 0.1),
    ("vgg16_bn", 0.05),
    ("vgg16_bn_imagenet", 0.01),
]


def channels_of(name, width, root=(), **changed):
    architecture = models.create(name, 4, width=width)
    return Channels.of(architecture, dict(architecture.widths) | changed, SHAPE, root)


def by_name(channels):
    return {group.name: group for group in channels.groups}


def branch(*names):
    return tuple(("branch", *name.split("/")) for name in names)


def test_resnet_ties_stem_and_first_stage():
    groups = by_name(channels_of("resnet8", 1.0))
    assert list(groups) == [
        "stem", "stage1.block1.conv1", "stage2.block1.conv1", "stage2", "stage3.block1.conv1",
        "stage3",
    ]  # fmt: skip
    assert groups["stem"].members == ("stem", "stage1")
    assert groups["stem"].channels == 16
    assert tables.writers(groups["stem"]) == (("stem", "conv"), *branch("stage1_block1/conv2"))
    assert tables.writers(groups["stage3"]) == branch(
        "stage3_block1/conv2", "stage3_block1/projection"
    )
    assert tables.writers(groups["stage3.block1.conv1"]) == branch("stage3_block1/conv1")
    assert {group.unit_size for group in groups.values()} == {1}


def test_resnet_ties_nothing_where_a_projection_stands():
    groups = by_name(channels_of("resnet8", 1.0, stage1=12))
    assert groups["stem"].members == ("stem",)
    assert tables.writers(groups["stem"]) == (("stem", "conv"),)
    assert tables.writers(groups["stage1"]) == branch(
        "stage1_block1/conv2", "stage1_block1/projection"
    )
    assert (groups["stem"].channels, groups["stage1"].channels) == (16, 12)


def test_every_block_of_a_stage_writes_its_trunk():
    groups = by_name(channels_of("resnet20", 1.0))
    assert tables.writers(groups["stage2"]) == branch(
        "stage2_block1/conv2", "stage2_block1/projection", "stage2_block2/conv2",
        "stage2_block3/conv2",
    )  # fmt: skip
    assert len(groups) == 3 + 9


def test_mobilenet_depthwise_convolutions_write_what_they_read():
    channels = channels_of("mobilenet_v2", 1.0)
    groups = by_name(channels)
    assert tables.writers(groups["stem"]) == (("stem", "conv"), *branch("stage1_block1/depthwise"))
    inner = groups["stage2.block2.expand"]
    assert tables.writers(inner) == branch("stage2_block2/expand", "stage2_block2/depthwise")
    assert (inner.channels, inner.unit_size, inner.units) == (144, 1, 144)
    assert tables.writers(groups["stage4"]) == branch(
        *(f"stage4_block{number}/project" for number in (1, 2, 3, 4))
    )
    assert tables.writers(groups["head"]) == branch("head")
    assert all(group.members == (group.name,) for group in channels.groups)
    assert channels.fixed == ()


def test_dense_layers_without_normalisation_stay():
    channels = channels_of("vgg16_bn_imagenet", 1.0)
    assert channels.fixed == ("dense1", "dense2")
    assert len(channels.groups) == 13
    assert channels_of("vgg16_bn", 1.0).fixed == ()


@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_every_group_of_the_widths_is_thinned_or_fixed(name, width):
    channels = channels_of(name, width)
    members = [member for group in channels.groups for member in group.members]
    assert sorted([*members, *channels.fixed]) == sorted(models.create(name, 4).widths)


def random_params(name, width, root=()):
    architecture = models.create(name, 4, width=width)
    generator = np.random.default_rng(0)
    params = variable_shapes(architecture.build(), SHAPE)["params"]
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), params)
    for key in reversed(root):
        params = {key: params}
    return params


@pytest.mark.parametrize("root", [(), ("student_1",)])
@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_scales_and_with_scales_are_inverse(name, width, root):
    channels, params = channels_of(name, width, root), random_params(name, width, root)
    matrix = channels.scales(params)
    assert matrix.shape == (
        max(len(tables.writers(group)) for group in channels.groups),
        sum(group.channels for group in channels.groups),
    )
    zeroed = channels.with_scales(params, jnp.zeros_like(matrix), channels.biases(params))
    before, after = (flax.traverse_util.flatten_dict(tree) for tree in (params, zeroed))
    for path, leaf in before.items():
        expected = 0 * leaf if path in channels.scale_paths else leaf
        np.testing.assert_array_equal(after[path], expected, err_msg=str(path))
    # Each normalised layer of the network takes part, and no other.
    assert set(channels.scale_paths) == {path for path in before if path[-2:] == ("norm", "scale")}
    back = flax.traverse_util.flatten_dict(
        channels.with_scales(zeroed, matrix, channels.biases(params))
    )
    for path, leaf in before.items():
        np.testing.assert_array_equal(back[path], leaf, err_msg=str(path))


@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_magnitude_is_the_largest_of_all_writers(name, width):
    channels, params = channels_of(name, width), random_params(name, width)
    flat = flax.traverse_util.flatten_dict(params)
    magnitudes = channels.by_group(channels.magnitudes(params))
    for group in channels.groups:
        writers = np.stack(
            [np.abs(flat[(*path, "norm", "scale")]) for path in tables.writers(group)]
        )
        np.testing.assert_array_equal(magnitudes[group.name], writers.max(0), err_msg=group.name)


GROUPED = (
    Layer(("first",), None, "a", 3, 4, (3, 3), (8, 8), norm=True),
    Layer(("second",), "a", "b", 4, 6, (1, 1), (8, 8), norm=True),
    Layer(("third",), "b", "b", 6, 6, (3, 3), (8, 8), groups=3, norm=True),
    Layer(("last",), "b", None, 6, 5, bias=True),
)


def test_units_of_a_grouped_convolution():
    channels = tables.channels(GROUPED)
    assert [(g.name, g.unit_size, g.units) for g in channels.groups] == [("a", 1, 4), ("b", 2, 3)]
    np.testing.assert_array_equal(channels.group_of, [0, 0, 0, 0, 1, 1, 1])
    params = flax.traverse_util.unflatten_dict(
        {
            ("first", "norm", "scale"): jnp.array([1.0, -2, 3, -4]),
            ("second", "norm", "scale"): jnp.array([1.0, 2, 3, 4, 5, 6]),
            ("third", "norm", "scale"): jnp.array([-7.0, 1, 1, -8, 1, 1]),
        }
    )
    # b has two writers and units of two channels, so four contributors; a has one.
    expected = np.zeros((4, 7))
    expected[0, :4] = [1, -2, 3, -4]
    expected[:, 4:] = np.transpose([[1, 2, -7, 1], [3, 4, 1, -8], [5, 6, 1, 1]])
    np.testing.assert_array_equal(channels.scales(params), expected)
    np.testing.assert_array_equal(channels.magnitudes(params), [1, 2, 3, 4, 7, 8, 6])
    alive = jnp.array([True, False, True, True, True, False, False])
    np.testing.assert_array_equal(channels.counts(alive), [3, 2])
    back = channels.with_scales(
        jax.tree.map(jnp.zeros_like, params), channels.scales(params), channels.biases(params)
    )
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_by_group_splits_in_order():
    channels = tables.channels(GROUPED)
    parts = channels.by_group(np.arange(7))
    assert {name: part.tolist() for name, part in parts.items()} == {
        "a": [0, 1, 2, 3],
        "b": [4, 5, 6],
    }


def test_a_group_with_one_writer_without_normalisation_is_fixed():
    layers = (*GROUPED[:3], Layer(("bare",), "a", "b", 4, 6, (1, 1), (8, 8), bias=True))
    channels = tables.channels(layers)
    assert [group.name for group in channels.groups] == ["a"]
    assert channels.fixed == ("b",)


def test_a_dense_layers_scales_belong_to_all_that_it_reads():
    """In a dense block a normalisation before a layer decides about all segments that it reads."""
    widths = densenet.width_vector((2, 1), growth=2, stem=3)
    network = densenet.DenseNet("small", 4, widths, (2, 1))
    channels = Channels.of(network, widths, SHAPE)
    groups = by_name(channels)
    assert channels.fixed == ()
    assert tables.writers(groups["stem"]) == branch(
        "block1_layer1/bottleneck", "block1_layer2/bottleneck", "transition1"
    )
    assert tables.writers(groups["block1.layer1.growth"]) == branch(
        "block1_layer2/bottleneck", "transition1"
    )
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), variable_shapes(network.build(), SHAPE)["params"]
    )
    # The transition reads the stem, the first and the second layer, in this order: 3 + 2 + 2.
    params["branch"]["transition1"]["norm"]["scale"] = jnp.arange(1.0, 8.0)
    found = channels.by_group(channels.magnitudes(params))
    assert found["stem"].tolist() == [1, 2, 3]
    assert found["block1.layer1.growth"].tolist() == [4, 5]
    assert found["block1.layer2.growth"].tolist() == [6, 7]
    moved = channels.with_scales(params, 2 * channels.scales(params), channels.biases(params))
    scale = moved["branch"]["transition1"]["norm"]["scale"]
    assert scale.tolist() == [2, 4, 6, 8, 10, 12, 14]


def test_a_resnext_keeps_the_number_of_groups_of_its_blocks():
    network = models.create("resnext50_32x4d", 4, width=0.5)
    channels = Channels.of(network, network.widths, (32, 32, 3))
    assert channels.fixed == ()
    units = {group.name: (group.units, group.unit_size) for group in channels.groups}
    # Each of 32 groups reads and writes two channels; a unit has one channel of every group.
    assert units["stage1.block1.conv1"] == units["stage1.block1.conv2"] == (2, 32)
    assert units["stage1"] == (128, 1)

"""What tracing finds in the known families, against what their authors wrote down by hand."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from kdjax import costs, models, tracing, widths
from kdjax.models.initialize import variable_shapes
from kdjax.search import Channels, slim
from kdjax.search.penalty import COUNTED_AS, RESOURCES, CostModel

NETWORKS = {
    "resnet8": (32, 32, 3),
    "resnet20": (9, 11, 1),
    "mobilenet_v2": (32, 32, 3),
    "mobilenet_v2_imagenet": (40, 56, 3),
    "vgg16_bn": (32, 32, 3),
    "vgg16_bn_imagenet": (40, 40, 3),
}
# (params, macs, activations) of seven classes, at full widths and at 0.3 of all but the stem.
COSTS = {
    "resnet8": ((77_847, 12_501_440, 86_023), (7_628, 1_841_477, 39_239)),
    "resnet20": ((271_991, 4_762_480, 21_847), (24_084, 430_774, 7_450)),
    "mobilenet_v2": ((2_232_839, 87_972_608, 1_639_943), (223_115, 10_035_968, 532_487)),
    "mobilenet_v2_imagenet": ((2_232_839, 17_995_504, 335_127), (223_115, 2_400_275, 124_192)),
    "vgg16_bn": ((14_726_727, 313_200_128, 276_487), (1_325_176, 37_229_499, 128_227)),
    "vgg16_bn_imagenet": ((39_925_831, 534_028_288, 444_423), (3_594_677, 62_175_653, 204_069)),
    "resnet110": ((1_730_519, 253_149_632, 1_060_871), (149_952, 20_270_021, 298_183)),
}
full_networks = pytest.mark.parametrize("name", [*NETWORKS, "resnet110"])
small_networks = pytest.mark.parametrize(
    "name", ["resnet8", "resnet20", "mobilenet_v2", "vgg16_bn", "vgg16_bn_imagenet"]
)


@functools.cache
def case(name, width=1.0):
    """Architecture, image shape, description."""
    architecture, shape = models.create(name, 7, width=width), NETWORKS.get(name, (32, 32, 3))
    if "dense1" in architecture.widths and width < 1:
        small = {**architecture.widths, "dense1": 7, "dense2": 6}
        architecture = dataclasses.replace(architecture, widths=widths.WidthVector(small))
    return architecture, shape, tracing.traced(architecture, shape)


def thinned(description, seed, share=0.5):
    """Random living classes, at least one of each group; and the widths they make."""
    generator = np.random.default_rng(seed)
    alive = generator.random(description.classes) < share
    for group in description.groups:
        alive[generator.integers(group.start, group.stop)] = True
        if group.held:
            alive[group.start : group.stop] = True
    alive[0] = True
    return alive, tracing.widths(description, alive)


def declared(architecture, found):
    return widths.WidthVector({name: found[name] for name in architecture.widths})


@full_networks
def test_cost(name):
    architecture, shape, description = case(name)
    expected = costs.Cost(*COSTS[name][0])
    assert tracing.count(description) == expected
    assert costs.count(architecture, architecture.widths, shape) == expected


@full_networks
def test_cost_with_some_channels(name):
    architecture, shape, description = case(name)
    for seed in range(3):
        alive, found = thinned(description, seed)
        expected = costs.count(architecture, declared(architecture, found), shape)
        assert tracing.count(description, alive) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_of_the_thinned_network_itself(name):
    architecture, shape, _ = case(name)
    vector = widths.scale(architecture.widths, 0.3, keep=architecture.shared)
    thin = tracing.traced(dataclasses.replace(architecture, widths=vector), shape)
    expected = costs.Cost(*COSTS[name][1])
    assert tracing.count(thin) == expected
    assert costs.count(architecture, vector, shape) == expected


@full_networks
def test_groups_and_deciding_scales(name):
    architecture, shape, description = case(name)
    channels = Channels.of(architecture, architecture.widths, shape)
    assert [
        (group.name, group.members, group.channels, group.unit, group.scales)
        for group in description.free
    ] == [
        (
            *(group.name, group.members, group.channels, group.unit),
            tuple(("params", *path, "norm", "scale") for path in group.writers),
        )
        for group in channels.groups
    ]
    held = [group.name for group in description.groups if group.held]
    assert tuple(held) == channels.fixed
    assert set(description.fixed) == {*channels.fixed, "branch/classifier"}
    assert "network's outputs" in description.fixed["branch/classifier"]
    assert description.ties == architecture.ties(architecture.widths)


def test_a_projection_unties_stem_and_first_stage():
    architecture, shape, _ = case("resnet8")
    vector = widths.WidthVector({**architecture.widths, "stage1": 12})
    description = tracing.traced(dataclasses.replace(architecture, widths=vector), shape)
    assert description.ties == architecture.ties(vector) == ()
    groups = {group.name: group for group in description.groups}
    assert groups["stem"].scales == (("params", "stem", "conv", "norm", "scale"),)
    assert [path[-3] for path in groups["stage1"].scales] == ["conv2", "projection"]


@full_networks
def test_layers(name):
    architecture, shape, description = case(name)
    leaders = {member: group.name for group in description.groups for member in group.members}
    table = architecture.layers(architecture.widths, shape)
    # A block's projection runs last and is written last; both are in order of execution.
    for layer, written in zip(description.layers, table, strict=True):
        path = layer.path[:-1] if layer.path[-1] == "conv" and written.norm else layer.path
        places = 1 if written.groups > 1 else layer.fan_in // written.in_channels
        assert path == written.path
        assert layer.name == (written.out_group or "/".join(path))
        assert (layer.groups, layer.taps * places) == (written.groups, np.prod(written.kernel))
        assert layer.positions == layer.outputs == np.prod(written.out_size)
        read = {group for group, _ in description.segments(layer.reads)}
        wrote = description.segments(layer.writes)
        assert read == {leaders.get(written.in_group, "")}
        assert wrote == ((leaders.get(written.out_group, ""), written.out_channels),)


@full_networks
@pytest.mark.parametrize("resource", RESOURCES)
def test_coefficients_of_cost_and_penalty(name, resource):
    architecture, shape, description = case(name)
    channels = Channels.of(architecture, architecture.widths, shape)
    layers = architecture.layers(architecture.widths, shape)
    model = CostModel.of(resource, channels, layers)
    terms = tracing.terms(description, COUNTED_AS[resource])
    factor = 2 if resource == "flops" else 1
    alive, _ = thinned(description, 0)
    units = tracing.units(description, alive)
    free = [number for number, group in enumerate(description.groups) if not group.held]
    counts = (units * [group.unit for group in description.groups])[free]
    assert factor * terms.total(units) == pytest.approx(model.cost(counts) * model.full, rel=1e-9)
    expected = np.asarray(model.coefficients(counts)) * model.full
    np.testing.assert_allclose(
        factor * terms.coefficients(units)[free], expected, rtol=1e-5, atol=1e-3
    )


@functools.cache
def variables(name):
    architecture, shape, _ = case(name, 0.1)
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(np.float32),
        variable_shapes(architecture.build(), shape),
    )


@small_networks
def test_slices_are_those_of_the_table(name):
    architecture, shape, description = case(name, 0.1)
    alive, _ = thinned(description, 1)
    kept = {
        member: np.flatnonzero(alive[description.widths[member]])
        for group in description.free
        for member in group.members
    }
    np.testing.assert_array_equal(tracing.alive_from_kept(description, kept), alive)
    tree = {**variables(name), "state": ({"trace": variables(name)["params"]}, np.int32(3))}
    layers = architecture.layers(architecture.widths, shape)
    expected, cut = slim(tree, layers, kept), tracing.take(tree, description, alive)
    jax.tree.map(np.testing.assert_array_equal, cut, expected)
    assert sum(leaf.size for leaf in jax.tree.leaves(cut)) < sum(
        leaf.size for leaf in jax.tree.leaves(tree)
    )


@small_networks
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_small_network_is_the_full_one_without_channels(name, share):
    architecture, shape, description = case(name, 0.1)
    alive, found = thinned(description, 2, share)
    small = architecture.build(declared(architecture, found))
    again = tracing.check(description, alive, small, shape)
    assert tracing.count(again) == tracing.count(description, alive)


def test_another_network_is_found_out():
    architecture, shape, description = case("resnet8")
    alive = tracing.everything(description)
    other = architecture.build({**architecture.widths, "stage1": 12})
    with pytest.raises(ValueError, match=r"only the small network has .*projection"):
        tracing.check(description, alive, other, shape)
    other = architecture.build({**architecture.widths, "stage3": 12})
    with pytest.raises(ValueError, match=r"has 12 channels on axis .*: 64 of the full one's 64"):
        tracing.check(description, alive, other, shape)


def test_names_are_those_of_the_entries_that_change_an_axis():
    """One entry smaller at a time: the axes that shrink are those that carry its name."""
    architecture, shape, description = case("resnet8")
    shapes = {path: [len(axis) for axis in axes] for path, axes in description.leaves.items()}
    for name in ("stage1.block1.conv1", "stage2", "stage2.block1.conv1", "stage3"):
        vector = {**architecture.widths, name: architecture.widths[name] - 1}
        changed = variable_shapes(architecture.build(vector), shape)
        own = np.unique(description.widths[name])
        for path, axes in description.leaves.items():
            found = changed
            for key in path:
                found = found[key]
            smaller = [
                size < before for size, before in zip(found.shape, shapes[path], strict=True)
            ]
            assert smaller == [np.isin(own, axis).all() for axis in axes], (name, path)

"""Tracing of the known families, compared with values that are written down by hand."""

import dataclasses
import functools

import numpy as np
import pytest
from synthetic import widths_of

from kdjax import costs, models, tracing, widths
from kdjax.models.initialize import variable_shapes

NETWORKS = {
    "resnet8": (32, 32, 3),
    "resnet20": (9, 11, 1),
    "mobilenet_v2": (32, 32, 3),
    "mobilenet_v2_imagenet": (40, 56, 3),
    "vgg16_bn": (32, 32, 3),
    "vgg16_bn_imagenet": (40, 40, 3),
}
# (params, macs, activations) with seven classes, at full widths and at 0.3 of all but the stem.
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
    """Returns (architecture, image shape, description)."""
    architecture, shape = models.create(name, 7, width=width), NETWORKS.get(name, (32, 32, 3))
    if "dense1" in architecture.widths and width < 1:
        small = {**architecture.widths, "dense1": 7, "dense2": 6}
        architecture = dataclasses.replace(architecture, widths=widths.WidthVector(small))
    return architecture, shape, tracing.trace_architecture(architecture, shape)


def thinned(description, seed, share=0.5):
    """Returns random living units, at least one in each group, and the widths that they give."""
    generator = np.random.default_rng(seed)
    alive = generator.random(description.units) < share
    for group in description.groups:
        alive[generator.integers(group.start, group.stop)] = True
        if group.held:
            alive[group.start : group.stop] = True
    alive[0] = True
    return alive, widths_of(description, alive)


def ties(description):
    """Returns the names of tied widths, for each group with more than one."""
    return [group.members for group in description.groups if len(group.members) > 1]


def declared(architecture, found):
    return widths.WidthVector({name: found[name] for name in architecture.widths})


@full_networks
def test_cost(name):
    architecture, shape, description = case(name)
    expected = costs.Cost(*COSTS[name][0])
    assert tracing.count(description) == expected
    assert costs.count(architecture, architecture.widths, shape) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_with_some_channels(name):
    architecture, shape, description = case(name)
    for seed in range(2):
        alive, found = thinned(description, seed)
        expected = costs.count(architecture, declared(architecture, found), shape)
        assert tracing.count(description, alive) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_of_the_thinned_network_itself(name):
    architecture, shape, _ = case(name)
    vector = widths.scale(architecture.widths, 0.3, keep=architecture.shared)
    thin = tracing.trace_architecture(dataclasses.replace(architecture, widths=vector), shape)
    expected = costs.Cost(*COSTS[name][1])
    assert tracing.count(thin) == expected
    assert costs.count(architecture, vector, shape) == expected


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_groups_and_deciding_scales_of_a_resnet(depth):
    """The stem and stage 1 are added, and so are the blocks of a stage and its projection."""
    architecture = models.create(f"resnet{depth}", 7)
    description = tracing.trace_architecture(architecture, (32, 32, 3))
    blocks = range(1, (depth - 2) // 6 + 1)

    def scales(stage, *layers):
        return tuple(("params", "branch", *layer.split("/"), "norm", "scale") for layer in layers)

    expected = {
        "stem": (
            ("stem", "stage1"),
            16,
            (
                ("params", "stem", "conv", "norm", "scale"),
                *scales("stage1", *(f"stage1_block{n}/conv2" for n in blocks)),
            ),
        )
    }
    for stage, channels in (("stage1", 16), ("stage2", 32), ("stage3", 64)):
        for n in blocks:
            own = scales(stage, f"{stage}_block{n}/conv1")
            expected[f"{stage}.block{n}.conv1"] = ((f"{stage}.block{n}.conv1",), channels, own)
        if stage != "stage1":
            first, *others = (f"{stage}_block{n}/conv2" for n in blocks)
            own = scales(stage, first, f"{stage}_block1/projection", *others)
            expected[stage] = ((stage,), channels, own)
    found = {g.name: (g.members, g.channels, g.scales) for g in description.groups}
    assert found == expected
    assert {group.unit_size for group in description.groups} == {1}
    assert description.free == description.groups
    assert set(description.fixed) == {"branch/classifier"}
    assert "network's outputs" in description.fixed["branch/classifier"]
    assert ties(description) == [("stem", "stage1")]


def test_groups_of_other_families():
    _, _, mobile = case("mobilenet_v2")
    groups = {group.name: group for group in mobile.groups}
    # The only block of stage 1 does not expand: its depthwise convolution belongs to the stem.
    assert [path[1:-2] for path in groups["stem"].scales] == [
        ("stem", "conv"),
        ("branch", "stage1_block1", "depthwise"),
    ]
    assert [path[2:-2] for path in groups["stage3"].scales] == [
        (f"stage3_block{n}", "project") for n in (1, 2, 3)
    ]
    assert [path[3:-2] for path in groups["stage3.block1.expand"].scales] == [
        ("expand",),
        ("depthwise",),
    ]
    assert ties(mobile) == [] and set(mobile.fixed) == {"branch/classifier"}
    _, _, vgg = case("vgg16_bn_imagenet")
    assert [group.name for group in vgg.groups if group.held] == ["dense1", "dense2"]
    assert all(len(group.scales) == 1 for group in vgg.free)
    assert len(vgg.free) == 13 and ties(vgg) == []
    dense = models.create("densenet_bc_100_12", 7)
    dense = {group.name: group for group in tracing.trace_architecture(dense, (32, 32, 3)).groups}
    # A growth is normalised by its readers: the 15 layers after it and the transition.
    assert len(dense["block1.layer1.growth"].scales) == 16
    assert len(dense["block1.layer1.bottleneck"].scales) == 1


def test_a_projection_unties_stem_and_first_stage():
    architecture, shape, _ = case("resnet8")
    vector = widths.WidthVector({**architecture.widths, "stage1": 12})
    description = tracing.trace_architecture(
        dataclasses.replace(architecture, widths=vector), shape
    )
    assert ties(description) == []
    groups = {group.name: group for group in description.groups}
    assert groups["stem"].scales == (("params", "stem", "conv", "norm", "scale"),)
    assert [path[-3] for path in groups["stage1"].scales] == ["conv2", "projection"]


# Path in the branch, written width, taps, side of the map, groups, inputs of an output channel.
RESNET8_LAYERS = (
    ("stem/conv", "stem", 9, 32, 1, 3),
    ("stage1_block1/conv1", "stage1.block1.conv1", 9, 32, 1, 16),
    ("stage1_block1/conv2", "stage1", 9, 32, 1, 16),
    ("stage2_block1/conv1", "stage2.block1.conv1", 9, 16, 1, 16),
    ("stage2_block1/conv2", "stage2", 9, 16, 1, 32),
    ("stage2_block1/projection", "stage2", 1, 16, 1, 16),
    ("stage3_block1/conv1", "stage3.block1.conv1", 9, 8, 1, 32),
    ("stage3_block1/conv2", "stage3", 9, 8, 1, 64),
    ("stage3_block1/projection", "stage3", 1, 8, 1, 32),
    ("classifier", "branch/classifier", 1, 1, 1, 64),
)
MOBILENET_LAYERS = (
    ("stem/conv", "stem", 9, 32, 1, 3),
    ("stage1_block1/depthwise", "stem", 9, 32, 32, 1),
    ("stage1_block1/project", "stage1", 1, 32, 1, 32),
    ("stage2_block1/expand", "stage2.block1.expand", 1, 32, 1, 16),
    ("stage2_block1/depthwise", "stage2.block1.expand", 9, 32, 96, 1),
    ("stage2_block1/project", "stage2", 1, 32, 1, 96),
    ("stage2_block2/expand", "stage2.block2.expand", 1, 32, 1, 24),
    ("stage2_block2/depthwise", "stage2.block2.expand", 9, 32, 144, 1),
    ("stage2_block2/project", "stage2", 1, 32, 1, 144),
    ("stage3_block1/expand", "stage3.block1.expand", 1, 32, 1, 24),
    ("stage3_block1/depthwise", "stage3.block1.expand", 9, 16, 144, 1),
)


@pytest.mark.parametrize(
    ("name", "expected"), [("resnet8", RESNET8_LAYERS), ("mobilenet_v2", MOBILENET_LAYERS)]
)
def test_layers(name, expected):
    _, _, description = case(name)
    for layer, written in zip(description.layers, expected, strict=name == "resnet8"):
        assert "/".join(layer.path).removeprefix("branch/").removesuffix("/conv") in (
            written[0],
            written[0].removesuffix("/conv"),
        )
        assert layer.kernel == ("params", *layer.path, "kernel")
        found = (layer.name, layer.taps, layer.positions, layer.groups, layer.fan_in)
        path, width, taps, side, groups, fan_in = written
        assert found == (width, taps, side * side, groups, fan_in), path
        assert layer.outputs == layer.positions
    dense1 = next(one for one in case("vgg16_bn_imagenet")[2].layers if one.name == "dense1")
    # 40 pixels become 2 x 2, so each channel of the last map is read at four positions.
    assert (dense1.fan_in, dense1.taps, len(dense1.writes)) == (4 * 512, 1, 4096)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vgg16_bn", "densenet_bc_100_12"])
def test_costs_of_layers(name):
    architecture = models.create(name, 7)
    description = tracing.trace_architecture(architecture, (32, 32, 3))
    own = tracing.layer_costs(description)
    assert len(own) == len(description.layers)
    total = costs.Cost(
        *(sum(getattr(cost, name) for cost in own) for name in ("params", "macs", "activations"))
    )
    assert total == tracing.count(description)
    stem, classifier = own[0], own[-1]
    channels = architecture.widths[architecture.shared[0]]
    assert stem.macs == 32 * 32 * 27 * channels
    assert classifier.params == 7 * (classifier.macs // 7 + 1)


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
    """Makes one entry smaller at a time: exactly the axes with its name shrink."""
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

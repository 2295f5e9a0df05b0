"""Tracing of many kinds of networks is checked by hand, and thinning them is exact."""

import dataclasses

import numpy as np
import pytest
import synthetic
from synthetic import SHAPE, assert_sliced_is_masked, family

from kdjax import tracing
from kdjax.search import Channels, CostModel

# Network -> family, and for each group its widths, units, channels in a unit and the parameters
# that control it.
NETWORKS = {
    "concatenation": (
        family(synthetic.DenselyConnected, stem=6, grow1=4, grow2=4, grow3=4, transition=5),
        {
            "stem": ("stem", 6, 1, "norm1 norm2 norm3 norm4"),
            "grow1": ("grow1", 4, 1, "norm2 norm3 norm4"),
            "grow2": ("grow2", 4, 1, "norm3 norm4"),
            "grow3": ("grow3", 4, 1, "norm4"),
            "transition": ("transition", 5, 1, "norm5"),
        },
    ),
    "squeeze-excite": (
        family(synthetic.SqueezeExcite, wide=8, squeeze=3, narrow=6),
        {
            "wide": ("wide", 8, 1, "expand_norm"),
            "squeeze": ("squeeze", 3, 1, ""),
            "narrow": ("narrow", 6, 1, "project_norm"),
        },
    ),
    # A unit is a whole group of the grouped convolution: two channels.
    "grouped": (
        family(synthetic.Grouped, stem=6, hidden=8),
        {
            "stem": ("stem", 6, 1, "stem_norm conv3_norm"),
            "hidden": ("hidden", 4, 2, "conv1_norm conv2_norm"),
        },
    ),
    # A unit is the same channel of both groups.
    "cardinal": (
        dataclasses.replace(
            family(synthetic.Cardinal, stem=6, read=8, written=6), keeps_cardinality=True
        ),
        {
            "stem": ("stem", 6, 1, "stem_norm conv3_norm"),
            "read": ("read", 4, 2, "conv1_norm"),
            "written": ("written", 3, 2, "conv2_norm"),
        },
    ),
    # The first channels of the stage are tied to the stem; the others are its own.
    "zero-padded": (
        family(synthetic.ZeroPadded, stem=5, hidden=4, stage=9),
        {
            "stem": ("stem stage", 5, 1, "stem_norm conv2_norm"),
            "hidden": ("hidden", 4, 1, "conv1_norm"),
            "stage": ("stage", 4, 1, "conv2_norm"),
        },
    ),
    "flattened": (
        family(synthetic.Flattened, first=6, dense=7),
        {
            "first": ("first", 6, 1, "first_norm"),
            "dense": ("dense", 7, 1, "norm"),
        },
    ),
    "shared": (
        family(synthetic.Shared, all=6),
        {"all": ("all", 6, 1, "stem_norm norm1 norm2")},
    ),
    "remat": (
        family(synthetic.Wrapped, trunk=5, inner1=4, inner2=4),
        {
            "trunk": ("trunk", 5, 1, "stem_norm block1/conv2_norm block2/conv2_norm"),
            "inner1": ("inner1", 4, 1, "block1/conv1_norm"),
            "inner2": ("inner2", 4, 1, "block2/conv1_norm"),
        },
    ),
    "layer normalisation": (
        family(synthetic.LayerNormed, trunk=6, hidden=8),
        {"hidden": ("hidden", 8, 1, "")},
    ),
    "group normalisation": (
        family(synthetic.GroupNormed, first=6, last=5),
        {"last": ("last", 5, 1, "last_norm")},
    ),
    # A value and its gate are one unit, though they are half the channels apart.
    "gated": (
        family(synthetic.Gated, pair=8, up=5),
        {
            "pair": ("pair", 4, 2, "pair_norm"),
            "up": ("up", 5, 1, "norm"),
        },
    ),
}
# Widths that cannot be thinned by scales, and why.
FIXED = {
    "squeeze-excite": {"squeeze": "excite reads them before a scale multiplies them"},
    "layer normalisation": {
        "trunk": "numbers are summed or compared over channels in norm",
        "hidden": "project reads them before a scale multiplies them",
    },
    "group normalisation": {"first": "numbers are summed or compared over channels in norm"},
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def described(name):
    architecture, expected = NETWORKS[name]
    return architecture, tracing.trace_architecture(architecture, SHAPE), expected


@every_network
def test_groups(name):
    _, description, expected = described(name)
    found = {
        group.name: (
            " ".join(group.members),
            group.units,
            group.unit_size,
            " ".join("/".join(path[1:-1]) for path in group.scales),
        )
        for group in description.groups
    }
    assert found == expected
    reasons = {key: why for key, why in description.fixed.items() if key != "classifier"}
    assert reasons.keys() == FIXED.get(name, {}).keys()
    for key, why in FIXED.get(name, {}).items():
        assert why in reasons[key]


@every_network
@pytest.mark.parametrize("share", [0.6, 0.0])
def test_sliced_is_masked(name, share):
    architecture, description, _ = described(name)
    generator = np.random.default_rng(1)
    alive = np.ones(description.units, bool)
    for group in description.free:
        own = slice(group.start, group.stop)
        alive[own] = generator.random(group.units) < share
        alive[generator.integers(group.start, group.stop)] = True
    assert not alive.all() or not description.free
    assert_sliced_is_masked(architecture, description, alive)


def test_a_transition_reads_four_segments():
    _, description, _ = described("concatenation")
    layers = {layer.path[-1]: layer for layer in description.layers}
    segments = [description.widths[name] for name in ("stem", "grow1", "grow2", "grow3")]
    assert [len(segment) for segment in segments] == [6, 4, 4, 4]
    np.testing.assert_array_equal(layers["transition"].reads, np.concatenate(segments))
    np.testing.assert_array_equal(layers["grow2"].reads, np.concatenate(segments[:2]))
    # The 1 x 1 convolution from 18 to 5 channels has 64 pixels; with half of grow2 it reads 16.
    only = tracing.everything(description)
    only[description.widths["grow2"][:2]] = False
    assert tracing.count(description).macs - tracing.count(description, only).macs == (
        64 * (9 * 6 * 0 + 9 * 10 * 2 + 9 * 4 * 2 + 5 * 2)
    )


def test_where_classes_are_in_a_scale():
    _, description, _ = described("concatenation")
    grow1 = next(group for group in description.groups if group.name == "grow1")
    positions = grow1.places(description.leaves["params", "norm3", "scale"][0])
    np.testing.assert_array_equal(positions, [[6], [7], [8], [9]])
    _, description, _ = described("gated")
    positions = description.groups[0].places(description.leaves["params", "pair_norm", "scale"][0])
    np.testing.assert_array_equal(positions, [[0, 4], [1, 5], [2, 6], [3, 7]])


def test_a_shared_kernel_counts_once_and_works_twice():
    _, description, _ = described("shared")
    cost = tracing.count(description)
    assert cost.params == 9 * 3 * 6 + 9 * 6 * 6 + 3 * 2 * 6 + 6 * 5 + 5
    assert cost.macs == 64 * (9 * 3 * 6 + 2 * 9 * 6 * 6) + 6 * 5
    assert cost.activations == 64 * 3 * 6 + 5


def test_costs_of_other_layers():
    # A 3 x 3 convolution at stride 2; the transposed one multiplies 16 pixels by nine taps each.
    _, description, _ = described("gated")
    cost = tracing.count(description)
    assert cost.macs == 16 * 9 * 3 * 8 + 16 * 9 * 4 * 5 + 5 * 5
    assert cost.activations == 16 * 8 + 64 * 5 + 5
    # With groups of two channels each output has 9 * 2 inputs.
    _, description, _ = described("grouped")
    assert tracing.count(description).macs == 64 * (9 * 3 * 6 + 6 * 8 + 9 * 2 * 8 + 8 * 6) + 6 * 5
    # Two groups, each with four input and three output channels.
    _, description, _ = described("cardinal")
    assert tracing.count(description).macs == 64 * (9 * 3 * 6 + 6 * 8 + 9 * 4 * 6 + 6 * 6) + 6 * 5
    alive = tracing.everything(description)
    alive[description.widths["read"][[0, 1]]] = False
    fewer = tracing.count(description, alive)
    assert fewer.macs == 64 * (9 * 3 * 6 + 6 * 4 + 9 * 2 * 6 + 6 * 6) + 6 * 5
    _, description, _ = described("flattened")
    assert tracing.count(description).params == (
        9 * 3 * 6 + 2 * 6 + 4 * 6 * 7 + 7 + 2 * 7 + 7 * 5 + 5
    )


@every_network
@pytest.mark.parametrize("resource", ["params", "flops"])
def test_costs_add_up_and_their_penalty_is_the_derivative(name, resource):
    architecture, description, expected = described(name)
    if not any(deciding for *_, deciding in expected.values()):
        with pytest.raises(ValueError, match="no channel of the network can be thinned"):
            Channels.in_network(description, tuple(architecture.widths))
        return
    channels = Channels.in_network(description, tuple(architecture.widths))
    model = CostModel.of(resource, channels)
    alive, counts = tracing.everything(description), []
    for group in channels.groups:
        alive[group.start] = False
        counts.append(group.channels - group.unit_size)
    counts = np.array(counts, float)
    assert model.cost(counts) * model.full == pytest.approx(
        getattr(tracing.count(description, alive), resource), rel=1e-12
    )
    # A coefficient adds up both factors of a term, each with the other held constant. That is the
    # derivative, except for grouped layers, which count twice.
    coefficients = model.coefficients(counts) * model.full
    for number, group in enumerate(channels.groups):
        step = np.eye(len(counts))[number]
        slope = (model.cost(counts + step) - model.cost(counts - step)) / 2 * model.full
        if name == "grouped":
            slope += sum(
                {"params": 9, "flops": 2 * 9 * 64}[resource] * 2
                for layer in description.layers
                if layer.loses_whole_groups and np.isin(group.start, layer.writes)
            )
        assert coefficients[number] == pytest.approx(slope)


def test_without_declared_names_layers_give_theirs():
    architecture, _, _ = described("grouped")
    description = tracing.trace(architecture.build(architecture.widths), SHAPE)
    assert [group.members for group in description.groups] == [
        ("stem", "conv3"),
        ("conv1", "conv2"),
    ]

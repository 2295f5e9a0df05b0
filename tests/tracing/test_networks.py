"""What tracing finds in networks of many kinds, by hand; and that thinning them is exact."""

import copy
import dataclasses
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
from synthetic import SHAPE, assert_sliced_is_masked, family, variables_of, widths_of

from kdjax import tracing
from kdjax.search import Channels, CostModel
from kdjax.tracing.names import NamedWidth, named

# Group -> its widths, classes, channels in a class, and the parameters that decide.
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
    # What lives and dies is a whole group of the grouped convolution: two channels.
    "grouped": (
        family(synthetic.Grouped, stem=6, hidden=8),
        {
            "stem": ("stem", 6, 1, "stem_norm conv3_norm"),
            "hidden": ("hidden", 4, 2, "conv1_norm conv2_norm"),
        },
    ),
    # The same channel of both groups.
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
    # The first channels of the stage are the stem's; the others are its own.
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
    # A value and its gate are one class, though they are half the channels apart.
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
    return architecture, tracing.traced(architecture, SHAPE), expected


@every_network
def test_groups(name):
    _, description, expected = described(name)
    found = {
        group.name: (
            " ".join(group.members),
            group.units,
            group.unit,
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
    alive = np.ones(description.classes, bool)
    for group in description.free:
        own = slice(group.start, group.stop)
        alive[own] = generator.random(group.units) < share
        alive[generator.integers(group.start, group.stop)] = True
    assert not alive.all() or not description.free
    assert_sliced_is_masked(architecture, description, alive)


def test_a_transition_reads_four_segments():
    _, description, _ = described("concatenation")
    layers = {layer.path[-1]: layer for layer in description.layers}
    expected = (("stem", 6), ("grow1", 4), ("grow2", 4), ("grow3", 4))
    assert description.segments(layers["transition"].reads) == expected
    assert description.segments(layers["grow2"].reads) == expected[:2]
    # 1 x 1 from 18 to 5 channels, on 64 pixels; with half of grow2: from 16.
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
    # 3 x 3 at stride 2; a transposed one multiplies each of 16 pixels by nine taps.
    _, description, _ = described("gated")
    cost = tracing.count(description)
    assert cost.macs == 16 * 9 * 3 * 8 + 16 * 9 * 4 * 5 + 5 * 5
    assert cost.activations == 16 * 8 + 64 * 5 + 5
    # In groups of two channels each output has 9 * 2 inputs.
    _, description, _ = described("grouped")
    assert tracing.count(description).macs == 64 * (9 * 3 * 6 + 6 * 8 + 9 * 2 * 8 + 8 * 6) + 6 * 5
    # Two groups of four channels in, three out.
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
        counts.append(group.channels - group.unit)
    counts = np.array(counts, float)
    assert model.cost(counts) * model.full == pytest.approx(
        getattr(tracing.count(description, alive), resource), rel=1e-12
    )
    # Each side of a term counts with the other held: the derivative, but for grouped layers,
    # which are felt twice.
    coefficients = model.coefficients(counts) * model.full
    for number, group in enumerate(channels.groups):
        step = np.eye(len(counts))[number]
        slope = (model.cost(counts + step) - model.cost(counts - step)) / 2 * model.full
        if name == "grouped":
            slope += sum(
                {"params": 9, "flops": 2 * 9 * 64}[resource] * 2
                for layer in description.layers
                if layer.grouped and np.isin(group.start, layer.writes)
            )
        assert coefficients[number] == pytest.approx(slope)


def test_symmetric_padding_is_found_out_where_it_moves_channels():
    architecture = family(Symmetric, stem=4, hidden=4, stage=8)
    description = tracing.traced(architecture, SHAPE)
    # The stem's are channels 2 to 5 of the stage.
    np.testing.assert_array_equal(description.widths["stage"][2:6], description.widths["stem"])
    alive = tracing.everything(description)
    alive[description.widths["stage"][[0, 7]]] = False
    assert_sliced_is_masked(architecture, description, alive)
    alive = tracing.everything(description)
    alive[description.widths["stage"][[0, 1]]] = False
    small = architecture.build(widths_of(description, alive))
    with pytest.raises(ValueError, match="do not hold the same channels in both networks"):
        tracing.check(description, alive, small, SHAPE)


class Symmetric(synthetic.ZeroPadded):
    symmetric: bool = True


def test_a_shuffle_needs_as_many_channels_of_both_halves():
    architecture = family(synthetic.Shuffled, first=8, last=5)
    description = tracing.traced(architecture, SHAPE)
    assert [(g.name, g.units, len(g.scales)) for g in description.groups] == [
        ("first", 8, 2),
        ("last", 5, 1),
    ]
    first, last = description.widths["first"], description.layers[2]
    np.testing.assert_array_equal(last.reads, first[[0, 4, 1, 5, 2, 6, 3, 7]])
    alive = tracing.everything(description)
    alive[first[[1, 5]]] = False
    assert_sliced_is_masked(architecture, description, alive)
    alive[first[[1, 5]]] = True
    alive[first[[1, 6]]] = False
    with pytest.raises(ValueError, match="do not hold the same channels"):
        tracing.check(description, alive, architecture.build(widths_of(description, alive)), SHAPE)


def test_scanned_blocks_are_followed_one_by_one():
    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            y = nn.Conv(x.shape[-1], (3, 3), use_bias=False, name="conv")(x)
            return nn.relu(x + synthetic.norm(y, "norm")), None

    class Scanned(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["all"], x, "stem"))
            axes = {"params": 0, "batch_stats": 0}
            blocks = nn.scan(Step, variable_axes=axes, split_rngs={"params": True}, length=3)
            return blocks(name="blocks")(x, None)[0]

    description = tracing.traced(family(Scanned, all=4), SHAPE)
    assert tracing.count(description).macs == 64 * (9 * 3 * 4 + 3 * 9 * 4 * 4) + 4 * 5
    assert [(group.name, group.units) for group in description.groups] == [("all", 4)]
    # The scales of three blocks are one array, of two axes: they decide about nothing.
    assert description.fixed["all"] == "blocks/conv reads them before a scale multiplies them"


def test_names_come_through_compiled_modules():
    block = nn.jit(synthetic.Block)

    class Compiled(synthetic.Wrapped):
        wrapper = staticmethod(lambda _: block)

    architecture = family(Compiled, trunk=5, inner1=4, inner2=4)
    net = architecture.build(architecture.widths)
    images = jnp.zeros((1, *SHAPE))
    jax.make_jaxpr(lambda v, x: net.apply(v, x, train=False))(variables_of(net), images)
    names = [group.name for group in tracing.traced(architecture, SHAPE).groups]
    assert names == ["trunk", "inner1", "inner2"]


def test_without_declared_names_layers_give_theirs():
    architecture, _, _ = described("grouped")
    description = tracing.trace(architecture.build(architecture.widths), SHAPE)
    assert [group.members for group in description.groups] == [
        ("stem", "conv3"),
        ("conv1", "conv2"),
    ]


def test_widths_made_by_arithmetic_are_held():
    class Computed(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            return nn.relu(synthetic.conv(2 * widths["first"], x, "second"))

    description = tracing.traced(family(Computed, first=4), SHAPE)
    assert [group.name for group in description.free] == ["first"]
    assert description.fixed["second"] == "the width of second is no entry of the width vector"

    class Followed(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            return nn.relu(x + synthetic.conv(x.shape[-1], x, "second"))

    architecture = family(Followed, first=4)
    description = tracing.traced(architecture, SHAPE)
    assert [(g.name, g.members, len(g.scales)) for g in description.free] == [
        ("first", ("first",), 2)
    ]
    assert_sliced_is_masked(architecture, description, np.array([True, True, False, True, False]))

    class Lost(synthetic.Net):
        def trunk(self, x, widths):
            return nn.relu(synthetic.conv(4 * widths["quarter"], x, "only"))

    with pytest.raises(ValueError, match=r"the widths \['quarter'\] are no layer's number"):
        tracing.traced(family(Lost, quarter=2), SHAPE)


def test_named_widths_are_ints_that_can_be_copied():
    width = named({"stem": 16})["stem"]
    assert (width, width.name, hash(width)) == (16, "stem", hash(16))
    for other in (copy.deepcopy(width), pickle.loads(pickle.dumps(width))):
        assert isinstance(other, NamedWidth) and (other, other.name) == (16, "stem")


def test_a_shortcut_that_appears_is_found_out():
    class Appearing(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            y = nn.relu(synthetic.conv(widths["second"], x, "second"))
            return x + y if widths["first"] == widths["second"] else y

    architecture = family(Appearing, first=4, second=5)
    description = tracing.traced(architecture, SHAPE)
    alive = tracing.everything(description)
    alive[description.widths["second"][0]] = False
    small = architecture.build(widths_of(description, alive))
    with pytest.raises(ValueError, match="do not hold the same channels in both networks"):
        tracing.check(description, alive, small, SHAPE)


def test_a_single_channel_that_gates_others_stays():
    class PlaceGated(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            gate = nn.sigmoid(synthetic.conv(widths["gate"], x, "gate"))
            return nn.relu(synthetic.conv(widths["last"], x * gate, "last"))

    architecture = family(PlaceGated, first=4, gate=1, last=5)
    description = tracing.traced(architecture, SHAPE)
    assert [group.name for group in description.groups] == ["first", "last"]
    assert description.fixed["gate"] == "one channel is combined with many"
    assert_sliced_is_masked(architecture, description, np.arange(10) % 3 != 1)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: jnp.fft.fft(x).real, "the operation 'fft' in unknown cannot be followed"),
        (
            lambda x: jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: 2 * y, x),
            "'while' in unknown .* Python loops",
        ),
    ],
)
def test_an_unknown_operation_is_named(operation, message):
    class Unknown(nn.Module):
        @nn.compact
        def __call__(self, x):
            return operation(x)

    class Strange(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            return Unknown(name="unknown")(x)

    with pytest.raises(NotImplementedError, match=message):
        tracing.traced(family(Strange, first=4), SHAPE)


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        (lambda x: x + jnp.arange(4.0), "combined with places that cannot go"),
        (lambda x: x * x.max(-1, keepdims=True), "summed or compared over channels"),
        (lambda x: jnp.sort(x, axis=-1), "accumulated or sorted over channels"),
        (lambda x: nn.avg_pool(x[..., None], (1, 1, 2))[..., 0], "window reaches over channels"),
        (lambda x: jnp.take(x, jnp.array([2, 0, 1, 3]), axis=-1), "gather picks numbers"),
        (lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x), "two computed arrays are multiplied"),
        (lambda x: x @ np.eye(4, dtype=np.float32), "multiplied by an array in the code"),
        (lambda x: x.reshape(1, 64, 4).swapaxes(1, 2), "network's outputs"),
    ],
)
def test_what_needs_every_channel_pins_them(operation, why):
    class Pinning(synthetic.Net):
        def trunk(self, x, widths):
            return operation(nn.relu(synthetic.conv(widths["first"], x, "first")))

    description = tracing.traced(family(Pinning, first=4), SHAPE)
    assert [group.name for group in description.free] == []
    assert why in description.fixed["first"]


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))


@pytest.mark.parametrize(
    "operation",
    [
        doubled,
        jax.checkpoint(lambda x: jnp.exp(jnp.tanh(x)) - 1),
        lambda x: jax.image.resize(x, (len(x), 4, 4, x.shape[-1]), "bilinear"),
        lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 0), (0, 0))),
        lambda x: jnp.flip(x, axis=(1, 3)),
        lambda x: jnp.stack([x, -x], axis=-1).sum(-1),
        lambda x: jnp.concatenate([x[:, :4], x[:, 4:]], axis=1),
        lambda x: x - x.max((1, 2), keepdims=True) * (jnp.arange(8.0) / 8)[:, None, None],
        lambda x: jax.lax.optimization_barrier((x, x))[1].astype(jnp.float16).astype(jnp.float32),
        lambda x: jnp.einsum("bhwc,hw->bhc", x, jnp.ones((8, 8)))[:, :, None],
        lambda x: jax.lax.stop_gradient(jnp.cumsum(x, axis=1)) ** 2,
    ],
)
def test_what_keeps_channels_apart(operation):
    class Kept(synthetic.Net):
        def trunk(self, x, widths):
            x = operation(nn.relu(synthetic.conv(widths["first"], x, "first")))
            return nn.relu(synthetic.conv(widths["last"], x, "last", 1))

    architecture = family(Kept, first=4, last=5)
    description = tracing.traced(architecture, SHAPE)
    assert [(g.name, g.units, len(g.scales)) for g in description.free] == [
        ("first", 4, 1),
        ("last", 5, 1),
    ]
    alive = tracing.everything(description)
    alive[description.widths["first"][1:3]] = False
    small = architecture.build(widths_of(description, alive))
    tracing.check(description, alive, small, SHAPE)

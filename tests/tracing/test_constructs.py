"""Tracing of single constructs: padding, shuffles, scans, names, operations."""

import copy
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
from synthetic import SHAPE, assert_sliced_is_masked, family, variables_of, widths_of

from kdjax import tracing
from kdjax.tracing.names import NamedWidth, named


def test_symmetric_padding_is_found_out_where_it_moves_channels():
    architecture = family(Symmetric, stem=4, hidden=4, stage=8)
    description = tracing.trace_architecture(architecture, SHAPE)
    # The stem's channels are channels 2 to 5 of the stage.
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
    description = tracing.trace_architecture(architecture, SHAPE)
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

    description = tracing.trace_architecture(family(Scanned, all=4), SHAPE)
    assert tracing.count(description).macs == 64 * (9 * 3 * 4 + 3 * 9 * 4 * 4) + 4 * 5
    assert [(group.name, group.units) for group in description.groups] == [("all", 4)]
    # The scales of three blocks are one array with two axes, so they control no channels.
    assert description.fixed["all"] == "blocks/conv reads them before a scale multiplies them"


def test_names_come_through_compiled_modules():
    block = nn.jit(synthetic.Block)

    class Compiled(synthetic.Wrapped):
        wrapper = staticmethod(lambda _: block)

    architecture = family(Compiled, trunk=5, inner1=4, inner2=4)
    net = architecture.build(architecture.widths)
    images = jnp.zeros((1, *SHAPE))
    jax.make_jaxpr(lambda v, x: net.apply(v, x, train=False))(variables_of(net), images)
    names = [group.name for group in tracing.trace_architecture(architecture, SHAPE).groups]
    assert names == ["trunk", "inner1", "inner2"]


def test_widths_made_by_arithmetic_are_held():
    class Computed(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            return nn.relu(synthetic.conv(2 * widths["first"], x, "second"))

    description = tracing.trace_architecture(family(Computed, first=4), SHAPE)
    assert [group.name for group in description.free] == ["first"]
    assert description.fixed["second"] == "the width of second is not in the width vector"

    class Followed(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            return nn.relu(x + synthetic.conv(x.shape[-1], x, "second"))

    architecture = family(Followed, first=4)
    description = tracing.trace_architecture(architecture, SHAPE)
    assert [(g.name, g.members, len(g.scales)) for g in description.free] == [
        ("first", ("first",), 2)
    ]
    assert_sliced_is_masked(architecture, description, np.array([True, True, False, True, False]))

    class Lost(synthetic.Net):
        def trunk(self, x, widths):
            return nn.relu(synthetic.conv(4 * widths["quarter"], x, "only"))

    with pytest.raises(ValueError, match=r"the widths \['quarter'\] are no layer's number"):
        tracing.trace_architecture(family(Lost, quarter=2), SHAPE)


def test_a_parameter_of_one_number_may_be_reshaped_to_a_scalar():
    class Gained(synthetic.Net):
        def trunk(self, x, widths):
            x = nn.relu(synthetic.conv(widths["first"], x, "first"))
            return x * self.param("gain", nn.initializers.ones, (1,)).reshape(())

    architecture = family(Gained, first=4)
    description = tracing.trace_architecture(architecture, SHAPE)
    assert [(g.name, len(g.scales)) for g in description.free] == [("first", 1)]
    assert_sliced_is_masked(architecture, description, np.array([True, True, False, True, False]))


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
    description = tracing.trace_architecture(architecture, SHAPE)
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
    description = tracing.trace_architecture(architecture, SHAPE)
    assert [group.name for group in description.groups] == ["first", "last"]
    assert description.fixed["gate"] == "one channel is combined with many"
    assert_sliced_is_masked(architecture, description, np.arange(10) % 3 != 1)


def chosen(x, widths):
    """The sign of one map decides what another is multiplied by."""
    first = nn.relu(synthetic.conv(widths["first"], x, "first"))
    return first * jnp.where(synthetic.conv(widths["second"], x, "second") > 0, 1.0, 0.5)


def windowed(x, widths):
    """Windows are folded into the batch before the convolution."""
    x = nn.relu(synthetic.conv(widths["first"], x, "first"))
    x = x.reshape(-1, 2, 4, 2, 4, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    return nn.relu(synthetic.conv(widths["second"], x, "second")).mean((1, 2))


def attended(x, widths):
    """Single-head attention, whose values can be thinned."""
    x = nn.relu(synthetic.conv(widths["first"], x, "first")).reshape(-1, 64, widths["first"])
    query, key = (nn.Dense(4, name=name)(x) for name in ("query", "key"))
    values = nn.relu(synthetic.norm(nn.Dense(widths["second"], name="value")(x), "value_norm"))
    weights = nn.softmax(jnp.einsum("bnc,bmc->bnm", query, key))
    return jnp.einsum("bnm,bmc->bnc", weights, values).mean(1)


def sorted_together(x, widths):
    """One map is put into the order of another."""
    first = nn.relu(synthetic.conv(widths["first"], x, "first")).mean(1)
    second = nn.relu(synthetic.conv(widths["second"], x, "second")).mean(1)
    return jax.lax.sort((first, second), dimension=1, num_keys=1)[1].mean(1)


@pytest.mark.parametrize(
    ("trunk", "tied"),
    [(chosen, True), (windowed, False), (attended, False), (sorted_together, True)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_costs_and_ties_of_other_constructs(trunk, tied):
    class Constructed(synthetic.Net):
        def trunk(self, x, widths):
            return trunk(x, widths)

    architecture = family(Constructed, first=6, second=6)
    description = tracing.trace_architecture(architecture, SHAPE)
    free = [group.name for group in description.free]
    assert len(free) == (1 if tied else 2)
    alive = np.arange(sum(group.units for group in description.groups) + 1) % 3 != 1
    assert_sliced_is_masked(architecture, description, alive)
    if trunk is windowed:
        macs = tracing.count(description, tracing.everything(description)).macs
        assert macs == 64 * 27 * 6 + 64 * 9 * 6 * 6 + 6 * 5


def test_what_a_condition_reads_counts_although_its_cases_are_constants():
    class Signs(synthetic.Net):
        def trunk(self, x, widths):
            x = synthetic.conv(widths["first"], x, "first").mean((1, 2))
            return jnp.where(x > 0, 1.0, -1.0)

    description = tracing.trace_architecture(family(Signs, first=6), SHAPE)
    layers = {"/".join(layer.path): layer for layer in description.layers}
    assert set(layers) == {"first", "classifier"}
    assert tracing.count(description, tracing.everything(description)).macs == 64 * 27 * 6 + 6 * 5


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
        tracing.trace_architecture(family(Strange, first=4), SHAPE)


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

    description = tracing.trace_architecture(family(Pinning, first=4), SHAPE)
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
    description = tracing.trace_architecture(architecture, SHAPE)
    assert [(g.name, g.units, len(g.scales)) for g in description.free] == [
        ("first", 4, 1),
        ("last", 5, 1),
    ]
    alive = tracing.everything(description)
    alive[description.widths["first"][1:3]] = False
    small = architecture.build(widths_of(description, alive))
    tracing.check(description, alive, small, SHAPE)

"""The cost of a thinned network and its penalty, compared with arithmetic by hand."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tables
from tables import Layer

from kdjax import costs, models, tracing, widths
from kdjax.search import Channels, CostModel
from kdjax.search.penalty import RESOURCES

# A network with every kind of layer, for images of 8 x 8 x 3 and five classes. Its groups are a (8
# channels), b (8), c (12, in units of 4) and d (6, tied with e).
TABLE = {
    "stem": Layer(("stem",), None, "a", 3, 8, (3, 3), (8, 8), norm=True),
    "strided": Layer(("strided",), "a", "b", 8, 8, (3, 3), (4, 4), norm=True),
    "depthwise": Layer(("depthwise",), "b", "b", 8, 8, (3, 3), (4, 4), groups=8, norm=True),
    "pointwise": Layer(("pointwise",), "b", "c", 8, 12, (1, 1), (4, 4), bias=True, norm=True),
    "grouped": Layer(("grouped",), "c", "c", 12, 12, (3, 3), (4, 4), groups=3, norm=True),
    "branch": Layer(("branch",), "c", "d", 12, 6, (1, 1), (4, 4), norm=True),
    "shortcut": Layer(("shortcut",), "a", "d", 8, 6, (1, 1), (4, 4), norm=True),
    "plain": Layer(("plain",), "d", "e", 6, 6, (3, 3), (4, 4), norm=True),
    "classifier": Layer(("classifier",), "e", None, 6, 5, bias=True),
}
CHANNELS = tables.channels(tuple(TABLE.values()), (("d", "e"),))
ALIVE = np.array([5.0, 3.0, 8.0, 4.0])

# layer -> (cost with all channels, cost with ALIVE, {group: what one unit of sum|scale| adds})
FLOPS = {
    "stem": (2 * 9 * 64 * 3 * 8, 2 * 9 * 64 * 3 * 5, {"a": 2 * 9 * 64 * 3}),
    "strided": (2 * 9 * 16 * 8 * 8, 2 * 9 * 16 * 5 * 3, {"a": 288 * 3, "b": 288 * 5}),
    "depthwise": (2 * 9 * 16 * 8, 2 * 9 * 16 * 3, {"b": 288 + 288}),
    "pointwise": (2 * 16 * 8 * 12, 2 * 16 * 3 * 8, {"b": 32 * 8, "c": 32 * 3}),
    "grouped": (2 * 9 * 16 * 4 * 12, 2 * 9 * 16 * 4 * 8, {"c": 1152 + 1152}),
    "branch": (2 * 16 * 12 * 6, 2 * 16 * 8 * 4, {"c": 32 * 4, "d": 32 * 8}),
    "shortcut": (2 * 16 * 8 * 6, 2 * 16 * 5 * 4, {"a": 32 * 4, "d": 32 * 5}),
    "plain": (2 * 9 * 16 * 6 * 6, 2 * 9 * 16 * 4 * 4, {"d": 288 * 4 + 288 * 4}),
    "classifier": (2 * 6 * 5, 2 * 4 * 5, {"d": 2 * 5}),
}
PARAMS = {  # Two for each normalised channel, one for a bias.
    "stem": (9 * 3 * 8 + 16, 9 * 3 * 5 + 10, {"a": 27 + 2}),
    "strided": (9 * 8 * 8 + 16, 9 * 5 * 3 + 6, {"a": 9 * 3, "b": 9 * 5 + 2}),
    "depthwise": (9 * 8 + 16, 9 * 3 + 6, {"b": 9 + 9 + 2}),
    "pointwise": (8 * 12 + 36, 3 * 8 + 24, {"b": 8, "c": 3 + 3}),
    "grouped": (9 * 4 * 12 + 24, 9 * 4 * 8 + 16, {"c": 36 + 36 + 2}),
    "branch": (12 * 6 + 12, 8 * 4 + 8, {"c": 4, "d": 8 + 2}),
    "shortcut": (8 * 6 + 12, 5 * 4 + 8, {"a": 4, "d": 5 + 2}),
    "plain": (9 * 6 * 6 + 12, 9 * 4 * 4 + 8, {"d": 36 + 36 + 2}),
    "classifier": (6 * 5 + 5, 4 * 5 + 5, {"d": 5}),
}
EXPECTED = {"flops": FLOPS, "params": PARAMS}


def vector(by_group):
    return np.array([by_group.get(group.name, 0.0) for group in CHANNELS.groups])


def tree(scales):
    """Returns parameters with only scales, from pairs (layer, scales)."""
    return flax.traverse_util.unflatten_dict(
        {(name, "norm", "scale"): jnp.asarray(values, jnp.float32) for name, values in scales}
    )


def test_the_groups_of_the_table():
    names = [
        (group.name, group.members, group.channels, group.unit_size) for group in CHANNELS.groups
    ]
    assert names == [
        ("a", ("a",), 8, 1),
        ("b", ("b",), 8, 1),
        ("c", ("c",), 12, 4),
        ("d", ("d", "e"), 6, 1),
    ]


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("name", TABLE)
def test_one_layer(resource, name):
    model = CostModel.of(resource, CHANNELS, [list(TABLE).index(name)])
    full, alive, coefficients = EXPECTED[resource][name]
    assert model.full == full
    assert model.cost(ALIVE) * full == pytest.approx(alive, rel=1e-12)
    found = np.asarray(model.coefficients(jnp.asarray(ALIVE, jnp.float32)))
    np.testing.assert_allclose(found * full, vector(coefficients), rtol=1e-5)


@pytest.mark.parametrize("resource", RESOURCES)
def test_layers_add_up(resource):
    model = CostModel.of(resource, CHANNELS)
    expected = EXPECTED[resource]
    assert model.full == sum(full for full, _, _ in expected.values())
    assert model.cost(ALIVE) * model.full == pytest.approx(sum(a for _, a, _ in expected.values()))
    coefficients = sum(vector(one) for _, _, one in expected.values())
    sums = np.array([1.5, 0.25, 4.0, 2.0])
    found = model.coefficients(jnp.asarray(ALIVE, jnp.float32)) @ jnp.asarray(sums, jnp.float32)
    assert float(found) * model.full == pytest.approx(coefficients @ sums, rel=1e-5)
    full = np.array([8.0, 8.0, 12.0, 6.0])
    assert model.cost(full) == pytest.approx(1.0, rel=1e-12)


def test_host_and_device_count_alike():
    model = CostModel.of("flops", CHANNELS)
    assert float(model.cost(jnp.asarray(ALIVE, jnp.float32))) == pytest.approx(model.cost(ALIVE))


# Group a: channels 5 to 7 are below the threshold. b: two writers. c: one of three units is dead.
# d: three writers, of which the last (e's) decides channel 0; channels 4 and 5 are dead.
SCALES = (
    ("stem", [1, -2, 0.5, 1, 1, 0.01, 0, 0]),
    ("strided", [0.5, 0.2, 0.1, 0, 0, 0, 0, 0]),
    ("depthwise", [0.4, -0.3, 0.1, 0, 0, 0, 0, 0]),
    ("pointwise", [0.2, 0.1, -0.9, 0.3, 0.1, 0.1, 0.1, 0.1, 0, 0, 0, 0]),
    ("grouped", [0.1, 0.1, 0.1, 0.1, 0.1, 0.7, 0.1, 0.1, 0, 0, 0, 0]),
    ("branch", [0.1, 0.2, 0, 0, 0, 0]),
    ("shortcut", [0.2, 0.3, 0, 0.05, 0, 0]),
    ("plain", [-0.6, 0.1, 0.4, 0, 0, 0]),
)
# Sums of the largest |scale| of each channel; a unit of c counts four times.
SUMS = {
    "a": 1 + 2 + 0.5 + 1 + 1 + 0.01,
    "b": 0.5 + 0.3 + 0.1,
    "c": 4 * (0.9 + 0.7),
    "d": 0.6 + 0.3 + 0.4 + 0.05,
}


def penalty(model, channels, params, threshold):
    """Returns the differentiable penalty of a network's scales, relative to its full cost.

    A channel is alive if its largest |scale| is above the threshold.
    """
    magnitudes = channels.magnitudes(params)
    counts = channels.counts(magnitudes > threshold)
    return model.coefficients(counts) @ channels.counts(magnitudes)


@pytest.mark.parametrize("resource", RESOURCES)
def test_penalty_of_scales(resource):
    model = CostModel.of(resource, CHANNELS)
    found = penalty(model, CHANNELS, tree(SCALES), threshold=0.02)
    coefficients = sum(vector(one) for _, _, one in EXPECTED[resource].values())
    assert float(found) * model.full == pytest.approx(coefficients @ vector(SUMS), rel=1e-5)
    # With a threshold below every scale, channel 5 of a is alive too.
    more = penalty(model, CHANNELS, tree(SCALES), threshold=0.005)
    reads_a = {"flops": 288 * SUMS["b"] + 32 * SUMS["d"], "params": 9 * SUMS["b"] + SUMS["d"]}
    assert float(more - found) * model.full == pytest.approx(reads_a[resource], rel=1e-3)


@pytest.mark.parametrize("resource", RESOURCES)
def test_gradient_of_the_penalty(resource):
    """The largest contributor's gradient is its sign times the group's coefficient; others: 0."""
    model = CostModel.of(resource, CHANNELS)
    gradient = jax.grad(lambda params: penalty(model, CHANNELS, params, 0.02))(tree(SCALES))
    strength = sum(vector(one) for _, _, one in EXPECTED[resource].values()) / model.full
    a, b, c, d = strength
    expected = {
        "stem": a * np.array([1, -1, 1, 1, 1, 1]),
        "strided": b * np.array([1, 0]),
        "depthwise": b * np.array([0, -1]),
        "pointwise": 4 * c * np.array([0, 0, -1, 0, 0, 0, 0, 0]),
        "grouped": 4 * c * np.array([0, 0, 0, 0, 0, 1, 0, 0]),
        "branch": d * np.array([0, 0, 0]),
        "shortcut": d * np.array([0, 1, 0, 1]),
        "plain": d * np.array([-1, 0, 1, 0]),
    }
    for name, values in expected.items():
        found = np.asarray(gradient[name]["norm"]["scale"])[: len(values)]
        np.testing.assert_allclose(found, values, rtol=1e-5, err_msg=name)


def test_strength_follows_the_living_not_the_sums():
    """Alive counts are constants in the gradient, so a scale's gradient has no second term."""
    model = CostModel.of("flops", CHANNELS)
    gradient = jax.grad(lambda params: penalty(model, CHANNELS, params, 0.02))
    doubled = tuple((name, 2 * np.array(values)) for name, values in SCALES)
    for leaf, other in zip(
        jax.tree.leaves(gradient(tree(SCALES))),
        jax.tree.leaves(gradient(tree(doubled))),
        strict=True,
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-6)


NETWORKS = [
    ("resnet8", 0.5),
    ("mobilenet_v2", 0.1),
    ("vgg16_bn", 0.05),
    ("vgg16_bn_imagenet", 0.01),
]


def thinned(name, width, seed):
    """Returns a network, its channels, random flags of living units, and the widths they give."""
    architecture = models.create(name, 7, width=width)
    shape = (16, 16, 3)
    channels = Channels.of(architecture, architecture.widths, shape)
    generator = np.random.default_rng(seed)
    alive = []
    for group in channels.groups:
        flags = generator.random(group.units) < generator.random()
        flags[generator.integers(group.units)] = True
        alive.append(flags)
    found = {
        member: int(flags.sum()) * group.unit_size
        for group, flags in zip(channels.groups, alive, strict=True)
        for member in group.members
    }
    vector = widths.WidthVector({g: found.get(g, w) for g, w in architecture.widths.items()})
    return architecture, shape, channels, np.concatenate(alive), vector


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_cost_is_what_the_thinned_network_has(name, width, seed):
    architecture, shape, channels, alive, vector = thinned(name, width, seed)
    counts = np.asarray(channels.counts(jnp.asarray(alive)), np.float64)
    rebuilt = costs.count(architecture, vector, shape)
    for resource, expected in (("flops", 2 * rebuilt.macs), ("params", rebuilt.params)):
        model = CostModel.of(resource, channels)
        assert model.cost(counts) * model.full == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "width"), NETWORKS)
@pytest.mark.parametrize("resource", RESOURCES)
def test_penalty_of_zeros_and_ones_is_cost_times_sides(name, width, seed, resource):
    architecture, shape, channels, alive, vector = thinned(name, width, seed)
    flags = channels.by_group(alive)
    params = flax.traverse_util.unflatten_dict(
        {
            (*path, "norm", "scale"): jnp.repeat(jnp.float32(flags[group.name]), group.unit_size)
            for group in channels.groups
            for path in tables.writers(group)
        }
    )
    model = CostModel.of(resource, channels)
    found = float(penalty(model, channels, params, 0.5)) * model.full
    counted, factor = {"flops": ("macs", 2), "params": ("params", 1)}[resource]
    full = channels.traced
    small = tracing.trace(architecture.build(vector), shape)
    expected = 0
    for layer, whole, cost in zip(
        small.layers, full.layers, tracing.layer_costs(small), strict=True
    ):
        kernel = np.prod([len(axis) for axis in small.leaves[layer.kernel]])
        connections, own = {"macs": (cost.macs, 0), "params": (kernel, cost.params - kernel)}[
            counted
        ]
        reads, writes = (
            bool(np.any([group.has(side) for group in channels.groups], axis=0).all())
            for side in (whole.reads, whole.writes)
        )
        expected += factor * ((reads + writes) * connections + writes * own)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_network_without_scales_is_refused():
    layers = (
        Layer(("a",), None, "a", 3, 8, (3, 3), (8, 8), bias=True),
        Layer(("classifier",), "a", None, 8, 10, bias=True),
    )
    with pytest.raises(ValueError, match="no channel of the network can be thinned"):
        tables.channels(layers)

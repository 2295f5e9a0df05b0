"""Latency as a cost: the table of a network's layers, its sum, its errors, and a budget from it."""

import json
import math

import flax.linen as nn
import numpy as np
import pytest

from kdjax import models, tracing
from kdjax.search import Channels, LatencyTable, load_latencies, make_budget, partition
from kdjax.search.latency import KIND

SHAPE = (8, 8, 3)
NETWORK = models.create("resnet8", 4, width=0.5)
CHANNELS = Channels.of(NETWORK, NETWORK.widths, SHAPE)
PATHS = ["/".join(layer.path) for layer in CHANNELS.traced.layers]
# Every layer takes 10 us, plus 1 for each channel read, 2 for each written and .1 for each pair.
TABLE = LatencyTable([(path, (10.0, 1.0, 2.0, 0.1)) for path in PATHS], "a machine")


def by_hand(widths):
    """Returns the same latency, summed layer by layer."""
    w = widths
    sides = [(3, w["stem"])]
    before = "stem"
    for stage in ("stage1", "stage2", "stage3"):
        inner = w[f"{stage}.block1.conv1"]
        sides += [(w[before], inner), (inner, w[stage])]
        sides += [(w[before], w[stage])] if stage != "stage1" else []
        before = stage
    sides.append((w["stage3"], 4))
    return sum(10 + read + 2 * written + 0.1 * read * written for read, written in sides)


class CalledTwice(nn.Module):
    """A network that uses one convolution at two map sizes."""

    @nn.compact
    def __call__(self, x, train=False):
        conv = nn.Conv(4, (3, 3), name="conv")
        x = nn.BatchNorm(True, name="norm")(nn.Conv(4, (1, 1), name="first")(x))
        for number in range(2):
            x = nn.BatchNorm(True, name=f"norm{number}")(conv(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(3, name="classifier")(x.mean((1, 2)))


def counts_of(widths):
    return np.array([widths[group.name] for group in CHANNELS.groups], float)


def test_a_network_takes_the_sum_of_its_layers():
    model = TABLE.model(CHANNELS)
    assert model.full == pytest.approx(by_hand(NETWORK.widths))
    thin = dict.fromkeys(NETWORK.widths, 3) | {"stage3": 5, "stage2.block1.conv1": 1}
    assert model.cost(counts_of(thin)) * model.full == pytest.approx(by_hand(thin))
    # One more channel of a group adds cost to the layers that read it and that write it.
    counts = counts_of(thin)
    wider = thin | {"stage3.block1.conv1": 4}
    grown = by_hand(wider) - by_hand(thin)
    place = [group.name for group in CHANNELS.groups].index("stage3.block1.conv1")
    coefficient = float(model.coefficients(counts)[place]) * model.full
    assert coefficient == pytest.approx(grown)


def test_a_grouped_layer_takes_time_by_its_groups():
    network = models.create("mobilenet_v2", 4, width=0.1)
    channels = Channels.of(network, network.widths, SHAPE)
    own = {"/".join(layer.path): layer for layer in channels.traced.layers}
    table = LatencyTable(
        [
            (path, (1.0, 0.0, 3.0 if layer.loses_whole_groups else 0.0, 0.0))
            for path, layer in own.items()
        ],
        "a machine",
    )
    hidden = [len(layer.writes) for layer in own.values() if layer.loses_whole_groups]
    assert table.model(channels).full == pytest.approx(len(own) + 3 * sum(hidden))


def budget(**targets):
    return make_budget(CHANNELS, partition(NETWORK, CHANNELS), latencies=TABLE, **targets)


def test_a_target_in_time_is_kept_beside_others():
    found = budget(latency=0.8, flops=0.5)
    assert [constraint.name for constraint in found.constraints] == ["flops", "latency"]
    assert [model.resource for model in found.resources] == ["flops", "params", "latency"]
    assert found.allows(dict.fromkeys(NETWORK.widths, 1))
    assert not found.allows(NETWORK.widths)
    # A target above 1 is in microseconds.
    whole = by_hand(NETWORK.widths)
    assert budget(latency=250).constraints[0].target == pytest.approx(250 / whole)
    with pytest.raises(ValueError, match=r"search.target.latency is 1e\+06: above the full"):
        budget(latency=1e6)
    # Each of ten layers takes at least ten microseconds, whatever its widths are.
    with pytest.raises(ValueError, match=r"for latency .* cannot be reached"):
        budget(latency=0.1)


def test_a_target_without_a_table():
    with pytest.raises(ValueError, match=r"it needs search.latency_table"):
        make_budget(CHANNELS, partition(NETWORK, CHANNELS), latency=0.5)


def test_blocks_that_are_penalised_for_their_time():
    kinds = ["flops", "latency", "targets"]
    blocks = partition(NETWORK, CHANNELS, resources=kinds)
    with pytest.raises(ValueError, match=r"resources is 'latency' for 'stage2': it needs"):
        make_budget(CHANNELS, blocks, flops=0.5)
    found = make_budget(CHANNELS, blocks, flops=0.5, latencies=TABLE)
    (constraint,) = found.constraints
    resources = [model.resource for model in found.resources]
    felt = {
        group.name: [resources[row] for row in np.flatnonzero(constraint.pressure[:, number])]
        for number, group in enumerate(CHANNELS.groups)
    }
    for block, resource in zip(blocks, ("flops", "latency", "flops"), strict=True):
        assert block.groups and all(felt[name] == [resource] for name in block.groups)


def record(**changes):
    return {
        "kind": KIND,
        "environment": {"device": "cpu"},
        "widths": dict(NETWORK.widths),
        "classes": NETWORK.num_classes,
        "image_shape": list(SHAPE),
        "batch_size": 1,
        "dtype": "float32",
        "microseconds": 500.0,
        "layers": [{"path": path, "coefficients": [10, 1, 2, 0.1]} for path in PATHS],
    } | changes


def test_a_file_is_read(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(record()))
    found = load_latencies(path, NETWORK, SHAPE)
    assert found.coefficients == TABLE.coefficients
    assert found.measured_on == "cpu, batch 1, float32"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a table of `kdjax bench --layers`"),
        (json.dumps(record(kind="other")), "is not a table of `kdjax bench --layers`"),
        (json.dumps(record(image_shape=[32, 32, 3])), r"image_shape \[32, 32, 3\]: this network"),
        (
            json.dumps(record(widths={"stem": 3})),
            r"measured with widths \{'stem': 3\}: this network, resnet8, has .* 4 more",
        ),
        (
            json.dumps(record(classes=100)),
            "measured with classes 100: this network, resnet8, has 4",
        ),
        (json.dumps(record(environment={})), r"is damaged \(KeyError\('device'\)\): measure it"),
        (json.dumps(record(layers=[{"path": "a", "coefficients": [1, 2]}])), "is damaged"),
        (json.dumps(record(layers=[{"path": "a", "coefficients": [1, 2, 3, -4]}])), "none below 0"),
        (json.dumps(record(layers=[{"path": "a", "coefficients": [math.nan] * 4}])), "is damaged"),
    ],
)
def test_a_file_that_does_not_fit(text, message, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_latencies(path, NETWORK, SHAPE)
    with pytest.raises(ValueError, match=r"missing.json cannot be read"):
        load_latencies(tmp_path / "missing.json", NETWORK, SHAPE)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (PATHS[1:], f"another network: it has no '{PATHS[0]}'"),
        ([*PATHS, "more"], "it has 11 layers, this one 10"),
        (PATHS[::-1], "its layers are in another order"),
    ],
)
def test_a_table_of_another_network(paths, message):
    table = LatencyTable([(path, (1.0, 0, 0, 0)) for path in paths], "")
    with pytest.raises(ValueError, match=message):
        table.model(CHANNELS)


def test_a_module_that_is_called_twice_has_two_times():
    channels = Channels.in_network(tracing.trace(CalledTwice(), SHAPE), ("first", "conv"))
    paths = ["/".join(layer.path) for layer in channels.traced.layers]
    assert paths == ["first", "conv", "conv", "classifier"]
    fixed = [1.0, 20.0, 3.0, 5.0]
    table = LatencyTable(
        [(path, (time, 0, 0, 0)) for path, time in zip(paths, fixed, strict=True)], ""
    )
    assert table.model(channels).full == 29

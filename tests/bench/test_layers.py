"""Times of layers: the fitted line, narrowed shapes, and a table that a search reads."""

import dataclasses
import json

import flax.linen as nn
import numpy as np
import pytest

from kdjax import models, tracing
from kdjax.bench import LayerSettings, bench_layers
from kdjax.bench.layers import _narrowed, _row, fit
from kdjax.search import Channels, load_latencies


def test_the_numbers_of_an_exact_line_are_found():
    points = [(r, w, 5 + 0.5 * r + 2 * w + 0.25 * r * w) for r in (1, 4, 8) for w in (2, 6, 16)]
    numbers, error = fit(points)
    np.testing.assert_allclose(numbers, [5, 0.5, 2, 0.25], rtol=1e-6)
    assert error < 1e-6


def test_no_number_is_negative():
    numbers, error = fit([(1, 1, 9.0), (2, 2, 4.0), (4, 4, 1.0)])
    assert min(numbers) >= 0 and error > 0.1


def test_layers_are_narrowed_as_a_search_would():
    network = models.create("mobilenet_v2", 10)
    layers = {
        layer.path[1:-1]: layer for layer in tracing.trace_architecture(network, (32, 32, 3)).layers
    }
    # A depthwise convolution loses the channels that it reads together with those it writes.
    x, kernel, params = _narrowed(layers["stage2_block1", "depthwise"], 0.5, 1.0)
    assert (x, kernel, params["feature_group_count"]) == ((1, 32, 32, 48), (3, 3, 1, 48), 48)
    x, kernel, _ = _narrowed(layers["stage2_block1", "expand"], 0.25, 0.5)
    assert (x, kernel) == ((1, 32, 32, 4), (1, 1, 4, 48))
    # The channels of the image and the classes are not narrowed.
    x, kernel, _ = _narrowed(layers["conv",], 0.1, 0.5)
    assert (x, kernel) == ((1, 32, 32, 3), (3, 3, 3, 16))
    network = models.create("resnext50_32x4d", 10)
    layers = {
        layer.path[1:-1]: layer for layer in tracing.trace_architecture(network, (64, 64, 3)).layers
    }
    x, kernel, params = _narrowed(layers["stage2_block2", "conv2"], 0.5, 0.25)
    assert (x[-1], kernel, params["feature_group_count"]) == (128, (3, 3, 4, 64), 32)


class Flattening(nn.Module):
    """A dense layer that reads all positions of a map: 4 * 6 numbers of each of 8 channels."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(True)(nn.Conv(8, (3, 3))(x))
        return nn.DenseGeneral(5, axis=(1, 2, 3), name="classifier")(x)


def test_a_dense_layer_over_several_axes_is_timed_whole():
    class Timer:
        def operation(self, operation):
            assert operation.x[1] == operation.kernel[0]
            return float(operation.x[1] * operation.kernel[1])

    layer = tracing.trace(Flattening(), (4, 6, 1)).layers[-1]
    row = _row(layer, Timer())
    assert row["measured"][0] == [8, 5, 24 * 8 * 5]
    _, read, _, pair = row["coefficients"]
    assert read + 5 * pair == pytest.approx(24 * 5)


def test_a_table_is_measured_and_read(tmp_path):
    path = tmp_path / "latency.json"
    settings = LayerSettings(
        "resnet8", width=0.25, classes=4, image_size=(8, 12), channels=1, rounds=1
    )
    record = bench_layers(settings, path)
    assert json.loads(path.read_text()) == record
    network = models.create("resnet8", 4, width=0.25)
    table = load_latencies(path, network, (8, 12, 1))
    model = table.model(Channels.of(network, network.widths, (8, 12, 1)))
    assert model.full > 0
    thin = np.array([1.0] * len(model.sources[0]))
    assert 0 < model.cost(thin) <= 1
    assert sum(layer["share"] for layer in record["layers"]) == pytest.approx(1)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by `kdjax bench --layers`"):
        bench_layers(settings, tmp_path / "other.json")
    with pytest.raises(ValueError, match="--rounds is 0: at least 1"):
        bench_layers(LayerSettings("resnet8", rounds=0), path)


def test_what_cannot_be_timed_is_found_before_anything_is(tmp_path, monkeypatch):
    def timed(*_):
        raise AssertionError("something was timed")

    network = tracing.trace_architecture(models.create("resnet8", 10, width=0.25), (8, 8, 3))
    product = dataclasses.replace(network.layers[-1], path=("attention",), operation=None)
    changed = dataclasses.replace(network, layers=(*network.layers, product))
    monkeypatch.setattr("kdjax.bench.layers.tracing.trace_architecture", lambda *_: changed)
    monkeypatch.setattr("kdjax.bench.layers._Timer", timed)
    with pytest.raises(ValueError, match="attention multiplies computed arrays"):
        bench_layers(LayerSettings("resnet8", width=0.25, image_size=(8, 8)), tmp_path / "out.json")

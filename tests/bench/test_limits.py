"""The cost of a step, compared with arithmetic by hand."""

import pytest

from kdjax import models
from kdjax.bench.limits import (
    Rates,
    Work,
    adapter_layers,
    ensemble_layers,
    evaluation_work,
    independent_layers,
    limit,
    training_work,
)

RESNET8 = models.create("resnet8", 10)
# ResNet8 has three maps of 32 x 32 x 16, three of 16 x 16 x 32 and three of 8 x 8 x 64.
OUTPUTS = 3 * 16_384 + 3 * 8_192 + 3 * 4_096
MACS = (
    27 * 16 * 1_024
    + 2 * 144 * 16 * 1_024
    + (144 + 288 + 16) * 32 * 256
    + (288 + 576 + 32) * 64 * 64
    + 640
)
PARAMETERS = 78_042


def test_one_network_by_hand():
    (layers,) = independent_layers(RESNET8, [RESNET8.widths], (32, 32, 3))
    training = training_work(layers, 4, 64)
    assert training.flops == 2 * 3 * MACS
    assert training.bytes == pytest.approx(4 * (14 * OUTPUTS + 6 * 10) + 32 * PARAMETERS / 64)
    evaluation = evaluation_work(layers, 2, 32)
    assert evaluation.flops == 2 * MACS
    assert evaluation.bytes == pytest.approx(2 * 3 * (OUTPUTS + 10) + 4 * PARAMETERS / 32)


def test_students_share_one_stem():
    widths = [RESNET8.widths] * 3
    one, ensemble = (
        independent_layers(RESNET8, widths[:1], (32, 32, 3))[0],
        ensemble_layers(RESNET8, widths, (32, 32, 3)),
    )
    stems = [layer for layer in ensemble if layer.path[0] == "stem"]
    assert len(stems) == 1
    assert len(ensemble) == 3 * len(one) - 2


def test_adapters_by_hand():
    maps = [[(4, 4, 16), (2, 2, 32)], [(4, 4, 3), (2, 2, 6)]]
    first, second = adapter_layers(maps)
    assert (first.cost.macs, first.cost.params) == (16 * 3 * 16, 3 * 16 + 16)
    assert (second.cost.macs, second.cost.params) == (4 * 6 * 32, 6 * 32 + 32)


def test_the_slower_of_two_resources_is_the_limit():
    rates = Rates(bytes_per_second=1000.0, flops_per_second=300.0)
    found = limit(Work(bytes=10.0, flops=2.0), rates, reached=25.0)
    assert (found["images_per_second"], found["bound_by"], found["reached"]) == (100, "bytes", 0.25)
    found = limit(Work(bytes=10.0, flops=6.0), rates, reached=25.0)
    assert (found["images_per_second"], found["bound_by"], found["reached"]) == (
        50,
        "operations",
        0.5,
    )

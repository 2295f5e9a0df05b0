"""The execution that `auto` stands for."""

import json

import pytest

from kdjax import models
from kdjax.config import ConfigError
from kdjax.models.execution import EXECUTIONS
from kdjax.train.devices.parallel import Parallel, choose
from kdjax.train.program import execution_choice
from kdjax.train.tasks.experiment import resolve


def entry(execution, **changes):
    fields = {
        "platform": "cpu",
        "device_kind": "cpu",
        "network": "resnet20",
        "batch_size": 64,
        "image_size": 32,
        "dtype": "float32",
        "images_per_second": {},
    }
    return fields | {"execution": execution} | changes


SHAPE = (32, 32, 3)
WANTED = {key: value for key, value in entry("").items() if key != "images_per_second"}


def test_the_closest_measurement_decides():
    entries = [
        entry("packed", batch_size=512),
        entry("scanned", batch_size=128),
        entry("merged", network="resnet110"),
        entry("merged_scanned", dtype="bfloat16"),
        entry("packed_scanned", platform="gpu", device_kind="H200"),
    ]
    assert execution_choice.nearest(WANTED, entries) == "scanned"
    assert execution_choice.nearest(WANTED | {"batch_size": 400}, entries) == "packed"
    assert execution_choice.nearest(WANTED | {"network": "resnet110"}, entries) == "merged"
    assert execution_choice.nearest(WANTED | {"dtype": "bfloat16"}, entries) == "merged_scanned"
    assert execution_choice.nearest(WANTED | {"platform": "gpu"}, entries) == "packed_scanned"
    assert execution_choice.nearest(WANTED | {"platform": "tpu"}, entries) == "sequential"


def test_of_other_networks_nothing_follows_where_they_do_not_count():
    entries = [entry("packed"), entry("merged", network="vgg16_bn")]
    wanted = WANTED | {"network": "vgg16_bn"}
    assert execution_choice.nearest(wanted, entries, other_networks=False) == "merged"
    assert execution_choice.nearest(wanted, entries[:1], other_networks=False) == "sequential"


def test_this_machine_goes_before_others():
    elsewhere, here = entry("packed"), entry("merged", device_kind="mine", network="resnet8")
    assert execution_choice.nearest(WANTED | {"device_kind": "mine"}, [elsewhere, here]) == "merged"


def test_an_estimate_stands_in_for_its_own_network_alone():
    planned = entry("merged", platform="gpu", device_kind="NVIDIA H200") | {"from": "plan"}
    wanted = WANTED | {"platform": "gpu", "device_kind": "NVIDIA A100"}
    assert execution_choice.nearest(wanted, [planned]) == "merged"
    assert execution_choice.nearest(wanted | {"network": "wrn_16_2"}, [planned]) == "sequential"
    other = wanted | {"dtype": "bfloat16"}  # The estimate is for float32.
    assert execution_choice.nearest(other, [planned]) == "sequential"
    # A measurement on the device itself comes before an estimate, and so does a measurement on the
    # device of the estimate.
    measured = entry("packed", platform="gpu", device_kind="NVIDIA A100", batch_size=512)
    assert execution_choice.nearest(wanted, [planned, measured]) == "packed"
    same = entry("scanned", platform="gpu", device_kind="NVIDIA H200")
    assert execution_choice.nearest(wanted, [planned, same]) == "scanned"


def test_a_new_measurement_takes_the_place_of_the_old_one(small_config, tmp_path, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path))
    architecture = models.create("resnet20", 10)
    small_config.network, small_config.batch_size = "resnet20", 64
    kind = choose(1).devices[0].device_kind
    for execution in ("merged", "packed"):
        path = execution_choice.record([entry(execution, device_kind=kind)])
        chosen = execution_choice.execution_of(small_config, architecture, choose(1), SHAPE)
        assert chosen == execution_choice.execution_named(execution)
    assert len(json.loads(path.read_text())) == 1
    execution_choice.record([entry("scanned", device_kind=kind, network="resnet8")])
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"execution": "merged"}, 3, null]'])
def test_a_broken_file_costs_speed_alone(small_config, content, tmp_path, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path))
    path = execution_choice.user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    architecture = models.create("resnet8", 10)
    assert execution_choice.execution_of(small_config, architecture, choose(1), SHAPE)


def test_what_comes_with_kdjax_is_well_formed():
    entries = execution_choice.packaged()
    assert {found["platform"] for found in entries} >= {"cpu"}
    for found in entries:
        assert found["execution"] in EXECUTIONS
        rates = found["images_per_second"]
        assert rates[found["execution"]] == max(rates.values())


def test_a_family_that_was_not_measured_runs_sequentially(small_config):
    architecture = models.create("vgg16_bn", 4, width=0.1)
    assert execution_choice.execution_of(small_config, architecture, choose(1), SHAPE).is_plain


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("execution", "scanned", r"config.compute.execution is 'scanned': vgg16_bn runs as one of"),
        ("remat", True, r"config.compute.lanes and remat are 1 and True: vgg16_bn supports only 1"),
    ],
)
def test_what_a_family_cannot_do_is_said_first(small_config, field, value, message):
    small_config.network, small_config.network_width = "vgg16_bn", 0.1
    small_config.compute[field] = value
    with pytest.raises(ConfigError, match=message):
        resolve(small_config)


def test_the_batch_of_one_device_counts(monkeypatch, small_config):
    seen = []
    monkeypatch.setattr(
        execution_choice,
        "nearest",
        lambda wanted, _, other_networks: seen.append(wanted) or "scanned",
    )
    small_config.batch_size = 64
    devices = Parallel(choose(0).devices[:4])
    execution_choice.execution_of(small_config, models.create("resnet8", 4), devices, SHAPE)
    assert seen[0]["batch_size"] == 16


def test_the_image_size_counts_before_the_batch():
    entries = [entry("packed", batch_size=512), entry("merged", image_size=224)]
    assert execution_choice.nearest(WANTED, entries) == "packed"
    assert execution_choice.nearest(WANTED | {"image_size": 200.0}, entries) == "merged"


def test_a_measurement_without_an_image_size_was_made_at_32(tmp_path, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path))
    path = execution_choice.user_file()
    old = {key: value for key, value in entry("packed").items() if key != "image_size"}
    path.write_text(json.dumps([old]))
    execution_choice.record([entry("merged", image_size=224)])
    assert [one["image_size"] for one in json.loads(path.read_text())] == [224, 32]


def test_the_image_size_is_that_of_a_square(small_config, tmp_path, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path))
    kind, architecture = choose(1).devices[0].device_kind, models.create("resnet8", 10)
    small_config.network, small_config.batch_size = "resnet8", 64
    own = {"device_kind": kind, "network": "resnet8"}
    sizes = {"packed": 128, "merged": 256}
    execution_choice.record([entry(name, image_size=size, **own) for name, size in sizes.items()])
    for shape, expected in (((96, 192, 3), "packed"), ((192, 384, 3), "merged")):
        chosen = execution_choice.execution_of(small_config, architecture, choose(1), shape)
        assert chosen == execution_choice.execution_named(expected)

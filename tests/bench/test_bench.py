"""Small runs of `kdjax bench`: what it records and what it refuses."""

import json

import pytest

from kdjax import cli, models
from kdjax.bench import Settings, Workload
from kdjax.bench.measure import spread, work
from kdjax.bench.run import fastest
from kdjax.train.devices.parallel import choose
from kdjax.train.program import execution_choice


def result(network, execution, speed):
    sizes = {"batch_size": 8, "image_size": 32}
    workload = {"network": network, "dtype": "float32", "execution": execution, **sizes}
    return {"workload": workload, "images_per_second": {"median": speed}}


SMALL = ("--batch=8", "--image_size=8", "--rounds=2")


def test_executions_are_measured_in_turn(tmp_path, capsys):
    out = tmp_path / "new" / "bench.json"
    options = ["--students=2", "--execution=sequential,merged"]
    assert cli.main(["bench", f"--out={out}", *SMALL, *options]) == 0
    record = json.loads(out.read_text())
    assert [row["workload"]["execution"] for row in record["results"]] == ["sequential", "merged"]
    for row in record["results"]:
        assert row["images_per_second"]["median"] > 0 < row["evaluation_images_per_second"]
        assert row["training_limit"]["reached"] > 0
        assert 0 < row["input_share"] < 1
        startup = row["startup_seconds"]
        parts = [seconds for name, seconds in startup.items() if name != "time_to_first_step"]
        assert startup["time_to_first_step"] == pytest.approx(sum(parts))
        memory = row["memory_bytes"]
        assert memory["planned"] > memory["state"] > 0 < memory["activations"]
    assert record["results"][0]["ratio_to_first"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert record["environment"]["versions"].keys() >= {"kdjax", "jax", "flax"}
    assert "chosen" not in record
    assert "merged" in capsys.readouterr().out


def test_the_command_measures_and_chooses(tmp_path, capsys, monkeypatch):
    # The next test shows that the fastest of several executions is chosen, without compiling five
    # students for each.
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "cache"))
    out, both = tmp_path / "bench.json", ["--execution=scanned,sequential"]
    assert cli.main(["bench", f"--out={out}", "--choose", *SMALL, *both]) == 0
    record = json.loads(out.read_text())
    said = " ".join(capsys.readouterr().out.split())
    assert "auto on this" in said and "batch 8 of 8 x 8, float32" in said
    kept = json.loads(execution_choice.user_file().read_text())
    assert kept == record["chosen"]
    (entry,) = kept
    assert entry["image_size"] == 8
    speeds = entry["images_per_second"]
    assert set(speeds) == {"scanned", "sequential"}
    assert entry["execution"] == max(speeds, key=speeds.get)


def test_the_fastest_of_each_workload_is_chosen():
    results = [
        result("resnet8", "sequential", 10.0),
        result("resnet8", "packed", 12.0),
        result("resnet8", "auto", 99.0),
        result("resnet20", "sequential", 3.0),
        result("resnet20", "packed", 2.0),
    ]
    chosen = {entry["network"]: entry["execution"] for entry in fastest(results)}
    assert chosen == {"resnet8": "packed", "resnet20": "sequential"}
    device = choose(1).devices[0]
    assert fastest(results)[0]["device_kind"] == device.device_kind


def test_a_single_student_is_trained_alone():
    first, second = Settings(students=(1, 2), executions=("sequential",)).workloads()
    assert (first.method, first.student_scales) == ("independent", (1.0,))
    assert (second.method, second.student_scales) == ("ensemble", (1.0, 0.8))


@pytest.mark.parametrize(
    "option, message",
    [
        ("--network=resnet9", "resnet9"),
        ("--execution=fast", "--execution is fast: resnet8 has auto, sequential, scanned"),
        ("--network=vgg16_bn --execution=scanned", "--execution is scanned: vgg16_bn has auto, s"),
        ("--dtype=float16", "config.compute.dtype is 'float16'"),
        ("--devices=99", "config.compute.devices is 99"),
        ("--batch=9 --devices=2", "--batch is 9: a multiple of the 2 devices"),
        ("--batch=0", "config.batch_size is 0|--batch is 0"),
        ("--students=6", "--students is 6: expected 1 to 5"),
        ("--rounds=0", "--rounds is 0: at least 1"),
        ("--classes=1", "--classes is 1: at least 2"),
        ("--image_size=4", "--image_size is 4: at least 8"),
        ("--remat=2", "--remat is 2: 0 or 1"),
        ("--choose --students=3", "--choose measures 1 device and 5 students"),
        ("--network_width=0.5", "--network_width is for bench with --layers"),
        ("--layers --remat=1", "--remat is for bench without --layers"),
        ("--image_size=24x32", "--image_size is 24x32: expected a square"),
        ("--layers --image_size=4x32", "--image_size is 4: at least 8"),
        ("--layers --choose", "--choose is for bench without --layers"),
        ("--layers --batch=1,2", "--batch has 2 values: --layers takes one"),
        ("--layers --batch=0", "--batch is 0: at least 1"),
        ("--layers --dtype=float16", "--dtype is float16: one of float32, bfloat16"),
        ("--layers --image_channels=0", "--image_channels is 0: 1 or 3"),
        ("--layers --network=resnet9", "resnet9"),
        ("--choose --execution=merged,auto", "--execution is merged,auto: --choose compares at l"),
        ("--devices=0", "--devices is 0: at least 1"),
        ("--choose --remat=0,1", "--choose measures 1 device and 5 students, without --remat"),
    ],
)
def test_bad_values_are_refused_before_anything_is_measured(
    tmp_path, capsys, monkeypatch, option, message
):
    def measured(*_):
        raise AssertionError("something was measured")

    monkeypatch.setattr("kdjax.bench.run.measure_rates", measured)
    monkeypatch.setattr("kdjax.bench.layers._Timer", measured)
    out = tmp_path / "bench.json"
    assert cli.main(["bench", f"--out={out}", *option.split()]) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|")), error
    assert not out.exists()


@pytest.mark.parametrize("content", ["{}", "[1]", "not json", '{"kind": "other"}'])
def test_a_file_of_something_else_stays(tmp_path, capsys, content):
    out = tmp_path / "results.json"
    out.write_text(content)
    assert cli.main(["bench", f"--out={out}"]) == 2
    assert "was not written by `kdjax bench`" in capsys.readouterr().err
    assert out.read_text() == content


def test_default_executions_are_those_that_a_family_has():
    settings = Settings(networks=("resnet8", "vgg16_bn"), choose=True)
    found = [(workload.network, workload.execution) for workload in settings.workloads()]
    assert found == [
        *(("resnet8", name) for name in models.create("resnet8", 10).executions),
        *(("vgg16_bn", name) for name in ("sequential", "packed", "merged")),
    ]


def test_quartiles_by_hand():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0}


def test_students_side_by_side_cost_more_than_an_ensemble():
    ensemble, _ = work(Workload(batch_size=8))
    separate, _ = work(Workload(batch_size=8, method="independent"))
    stem = 27 * 16 * 1024 * 2 * 3
    # Separate students have four more stems and no adapters. Adapters read 12, 9, 6 and 3 of 16
    # channels at 32 x 32, and so on.
    adapters = sum(
        size * size * sum(int(full * share + 1e-9) for share in (0.8, 0.6, 0.4, 0.2)) * full
        for size, full in ((32, 16), (16, 32), (8, 64))
    )
    assert separate.flops - ensemble.flops == 4 * stem - 6 * adapters

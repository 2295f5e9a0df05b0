"""The comparison's arithmetic, protocol and failing contestants; speed itself is not tested."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "throughput"
sys.path.insert(0, str(FOLDER))
(
    check,
    compare,
    contestants,
    convolutions,
    interleave,
    options,
    read_images,
    reading,
    records,
    separate,
    worker,
) = (
    importlib.import_module(name)
    for name in (
        "check",
        "compare",
        "contestants",
        "convolutions",
        "interleave",
        "options",
        "read_images",
        "reading",
        "records",
        "separate",
        "worker",
    )
)

# A worker without a training job, which logs its turns.
FAKE = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
import worker
name, log, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
turns = 0
def prepare():
    if last < 0:
        raise RuntimeError("no compiler")
    print("libraries print, too")
    return run, {{"steps_per_dispatch": 2}}
def run(steps):
    global turns
    turns += 1
    if turns > last:
        raise MemoryError("too large")
    with open(log, "a") as file:
        print(name, steps, file=file)
    return steps
worker.serve(prepare)
"""


def fake(name, log, last=100):
    return worker.Contestant(name, (sys.executable, "-c", FAKE, name, str(log), str(last)))


def test_medians_and_quartiles():
    assert records.summary([4.0, 1.0, 2.0, 3.0]) == {"median": 2.5, "quartiles": [1.75, 3.25]}
    assert records.summary([5.0]) == {"median": 5.0, "quartiles": [5.0, 5.0]}


def test_ratios_are_of_neighbours():
    # The ratio of medians would be 2 / 2.
    found = records.ratio([2.0, 8.0, 2.0], [1.0, 2.0, 4.0])
    assert found == {"median": 2.0, "quartiles": [1.25, 3.0]}


def test_a_turn_is_as_long_as_the_fastest_needs():
    assert interleave.settle([0.5, 0.1], 1.0) == 10
    assert interleave.settle([0.5, 0.1], 1.0, whole=8) == 16
    assert interleave.settle([20.0], 1.0) == 1
    assert interleave.settle([], 1.0, whole=8) == 8


def test_evaluation():
    results = [
        interleave.Result("kdjax", {"start_seconds": 3.0}, [1.0, 2.0, 1.0], [2.0, 4.0, 2.0]),
        interleave.Result("torch", {"start_seconds": 2.0}, [2.0, 2.0, 4.0], [2.0, 2.0, 4.0]),
        interleave.Result("torch-compiled", error="RuntimeError: no compiler"),
    ]
    found = compare.evaluate(results, steps=10, batch=4)
    assert found["kdjax"]["images_per_second"] == {"median": 40.0, "quartiles": [30.0, 40.0]}
    assert found["kdjax"]["times_as_fast_as"] == {"torch": {"median": 2.0, "quartiles": [1.5, 3.0]}}
    assert found["kdjax"]["cores_busy"]["median"] == 2.0
    assert found["torch"]["times_as_fast_as"] == {}
    assert found["torch-compiled"]["error"] == "RuntimeError: no compiler"
    text = compare.table(found)
    assert "torch-compiled failed: RuntimeError: no compiler" in text
    assert "2.00 [1.50, 3.00]" in text


def test_contestants_take_turns_and_may_fail(tmp_path):
    log = tmp_path / "log"
    started = [fake("a", log), fake("b", log, -1), fake("c", log, 6), fake("d", log)]
    steps, results = interleave.measure(started, rounds=3, seconds=0.0, timeout=60)
    assert steps == 2
    assert [len(result.seconds) for result in results] == [3, 0, 1, 3]
    assert [result.error for result in results] == [
        "",
        "RuntimeError: no compiler",
        "MemoryError: too large",
        "",
    ]
    first = ["a 1", "c 1", "d 1"]  # Each takes its first step before the next starts.
    warm = 2 * ["a 2", "c 2", "d 2"]
    rounds = [turn for c in (2, 1, 0) for turn in ["a 2"] * 2 + ["c 2"] * c + ["d 2"] * 2]
    assert log.read_text().splitlines() == first + warm + rounds  # One of each two counts.


@pytest.mark.parametrize("execution", ["packed", "packed_scanned"])
def test_the_convolutions_of_a_step_are_all_found(execution):
    """ResNet8: a stem, three groups of 2 x 3 convolutions, their projections and 12 adapters."""
    parser = argparse.ArgumentParser()
    options.add_job(parser)
    chosen = parser.parse_args(["--network=resnet8"])
    chosen.execution = execution
    found, _ = convolutions._of_kdjax(chosen)
    # Only the pivot has no projection in the first stage.
    assert sum(found.values()) == 1 + 3 * 6 + (3 * 3 - 1) + 12
    assert next(iter(found)) == convolutions.Convolution(32, 3, 16, 3, 1)
    adapters = {layer: count for layer, count in found.items() if layer.size == 1}
    assert sum(count for layer, count in adapters.items() if layer.stride == 1) == 12 + 2


def test_a_worker_that_cannot_be_started_is_reported():
    missing = worker.Contestant("torch", ("no-such-python",))
    _, (result,) = interleave.measure([missing], rounds=1, seconds=0.0, timeout=60)
    assert "no-such-python" in result.error


def test_a_silent_worker_is_reported_and_ended(monkeypatch):
    monkeypatch.setattr(worker, "_PATIENCE", 0.1)
    silent = worker.Contestant("torch", (sys.executable, "-c", "import time; time.sleep(600)"))
    with worker.Worker(silent) as started, pytest.raises(worker.WorkerError, match="no answer"):
        started.ready(timeout=0.1)


def test_the_kdjax_worker_speaks_the_protocol(tmp_path):
    contestant = contestants.kdjax(
        "kdjax", cache=str(tmp_path), network="resnet8", batch=8, image_size=8, students=2
    )
    with worker.Worker(contestant) as started:
        record = started.ready(timeout=600)
        taken = started.run(3, timeout=600)
    assert record["ready"] is True
    assert 0 < record["prepare_seconds"] < record["first_step_seconds"] < record["start_seconds"]
    assert set(record["versions"]) >= {"kdjax", "jax", "python"}
    assert record["hardware"]["platform"] == "cpu"
    assert record["steps_per_dispatch"] == 1
    assert taken.seconds > 0


def test_separate_runs_are_summed_repeat_by_repeat():
    def run(start, seconds):
        return {"start_seconds": start, "seconds": seconds}

    found = separate.ratios(
        {
            "ensemble": [run(10.0, 10.0), run(10.0, 20.0)],
            "student_1": [run(5.0, 10.0), run(5.0, 20.0)],
            "student_2": [run(5.0, 20.0), run(5.0, 60.0)],
        }
    )
    assert found["steps_alone"]["median"] == 3.5  # of 3 and 4
    assert found["start_up_alone"]["median"] == 1.0
    assert found["with_start_up"]["median"] == 2.5  # of 40 / 20 and 90 / 30


def test_what_the_peer_is_compared_with_is_the_whole_step():
    parser = argparse.ArgumentParser()
    options.add_job(parser)
    chosen = parser.parse_args(["--network=resnet8", "--students=2", "--image_size=8", "--batch=4"])
    vars(chosen).update(execution="sequential", batches=2)
    first, second = check.compute(chosen)
    assert first["logits"].shape == (2, 4, 10)
    assert {"term/hard", "term/soft", "term/feature"} <= first.keys()
    for kind in ("parameter", "gradient", "update"):
        assert any(name.startswith(f"{kind}/stem/") for name in first)
    assert np.isfinite(first["loss"])
    assert first["loss"] != second["loss"]


def test_the_peer_computes_the_same():
    pytest.importorskip("torch")

    def check(*flags):
        command = [sys.executable, str(FOLDER / "check.py"), "--network=resnet8", "--students=2"]
        return subprocess.run([*command, "--image_size=8", "--batch=4", *flags]).returncode

    assert check() == 0
    assert check("--tolerance=1e-12", "--batches=1") == 1


def test_kdjax_reads_crops_of_the_images_that_are_made(tmp_path, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "cache"))
    size = reading.make_images(tmp_path / "images", 2 * reading.CLASSES)
    assert 30_000 < size < 150_000
    batches = read_images.kdjax_batches(str(tmp_path / "images"), 8, 0)
    batch = next(batches)
    batches.close()
    assert batch.images.shape == (8, 224, 224, 3) and batch.images.dtype == np.uint8
    assert batch.images.std() > 30 and batch.mask.all()

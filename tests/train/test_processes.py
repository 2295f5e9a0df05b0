"""Several processes: numbers as with one process, errors reported once, all end if one dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdjax.train.devices import processes
from kdjax.train.devices.processes import ProcessError

ROOT = Path(__file__).parent.parent.parent
OVERRIDES = (
    "--config.method=ensemble",
    "--config.seeds=(0,)",
    "--config.network_width=0.25",
    "--config.student_scales=(1.0,0.5)",
    "--config.epochs=2",
    "--config.weight_ramp.epochs=2.0",
    "--config.evaluation.every_epochs=1",
    "--config.checkpoint.every_epochs=1",
    "--config.log.every_steps=7",
    "--config.log.tensorboard=False",
    "--config.compute.batch_norm=global",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return os.environ | {
        "KDJAX_CACHE": str(tmp_path_factory.mktemp("cache")),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
        "KDJAX": f"{sys.executable} -m kdjax",
    }


SEARCH_OVERRIDES = (
    "--config.seeds=(0,)",
    "--config.network_width=0.25",
    "--config.schedule.warmup_epochs=0.0",
    "--config.teacher.epochs=1",
    "--config.search.epochs=4",
    "--config.distil.epochs=1",
    "--config.evaluation.every_epochs=1",
    "--config.checkpoint.every_epochs=1",
    "--config.log.tensorboard=False",
    "--config.compute.batch_norm=global",
)


def command(workdir, *more, name="train"):
    overrides = {"train": OVERRIDES, "search": SEARCH_OVERRIDES}[name]
    config = f"--config={ROOT}/experiments/faults/defaults.py:{name}"
    return [sys.executable, "-m", "kdjax", name, config, f"--workdir={workdir}", *overrides, *more]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(environment, workdir, *more, own=((), ()), name="train"):
    """Starts two processes, each with its own arguments; their output goes to pipes."""
    shared = [f"--coordinator=localhost:{free_port()}", "--num_processes=2", *more]
    return [
        subprocess.Popen(
            command(workdir, *shared, f"--process_id={number}", *own[number], name=name),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]


def ends(running, timeout=120):
    """Waits for all processes; returns their exit statuses and outputs."""
    outputs = [process.communicate(timeout=timeout)[0] for process in running]
    return [process.returncode for process in running], outputs


def numbers(workdir):
    """Returns results, and lines of metrics without their speed."""
    results = json.loads((workdir / "results.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return results["students"], results["ensemble"], lines


@pytest.fixture(scope="module")
def one_process(environment, tmp_path_factory):
    """The numbers of one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    two = environment | {"XLA_FLAGS": environment["XLA_FLAGS"].replace("count=1", "count=2")}
    subprocess.run(command(workdir), env=two, check=True, capture_output=True)
    return numbers(workdir)


@pytest.mark.skipif(
    not os.environ.get("KDJAX_TEST_ALL"), reason="takes a minute: KDJAX_TEST_ALL=1 runs it"
)
def test_two_processes_search(environment, tmp_path):
    # tests/train/test_search_pipeline.py shows that devices do not change the numbers of a search.
    # Here the data that only the first process has and writes must reach all processes.
    statuses, outputs = ends(start(environment, tmp_path / "run", name="search"))
    assert statuses == [0, 0], outputs
    assert "Results: " in outputs[0] and "Results: " not in outputs[1]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [found["name"] for found in results["candidates"]] == [
        "compact, distilled",
        "compact, alone",
        "uniform, distilled",
    ]


def test_a_dead_process_ends_the_other_and_a_new_start_gives_the_numbers_of_one(
    environment, one_process, tmp_path
):
    workdir = tmp_path / "run"
    running = start(environment, workdir)
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or '"step": 21' not in metrics.read_text():
        assert all(process.poll() is None for process in running)
        time.sleep(0.02)
    running[1].kill()
    statuses, outputs = ends(running, timeout=60)
    assert statuses == [3, -signal.SIGKILL]
    assert "process 0 of 2 cannot go on" in outputs[0] and "Start all of them" not in outputs[1]
    script = ROOT / "experiments" / "launch" / "local.sh"
    done = subprocess.run(
        [script, *command(workdir)[4:]],
        env=environment | {"PORT": str(free_port())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert numbers(workdir) == one_process
    # Only the first process prints and writes results.
    assert "[0] Results: " in done.stdout and "[1] Results" not in done.stdout


def test_a_difference_is_named_and_nothing_is_written(environment, tmp_path):
    workdir = tmp_path / "run"
    own = ((), ("--config.weights.soft=0.3",))
    statuses, outputs = ends(start(environment, workdir, own=own))
    assert statuses == [2, 2]
    for output in outputs:
        assert "config.weights.soft is 0.3 in process 1, 0.15 in process 0" in output
    assert not workdir.exists()


def test_an_error_of_one_is_an_error_of_all(environment, tmp_path):
    workdir = tmp_path / "run"
    (tmp_path / "run").write_text("a file")
    statuses, outputs = ends(start(environment, workdir))
    assert statuses == [2, 2]
    assert "run is a file: expected a directory" in outputs[0]
    assert "process 0: workdir" in outputs[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 2, 0), "--num_processes and --process_id need --coordinator"),
        (("auto", 2, 0), "--num_processes and --process_id need --coordinator"),
        (("host:1", 2, 2), "the id must be at least 0 and below the number of processes"),
        (("host:1", 0, -1), "the id must be at least 0"),
        (("host", 2, 0), "expected host:port, or auto"),
        (("host:port", 2, 0), "expected host:port, or auto"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ProcessError, match=message):
        processes.start(*arguments)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # A batch script, not a task of srun.
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, True),
    ],
)
def test_clusters_are_seen_in_the_environment(environment, expected):
    assert processes.is_multi_process(environment) == expected


def test_a_process_by_itself_passes_through():
    assert processes.gather({"a": (1,)}) == [{"a": (1,)}]
    assert processes.on_first(lambda: 3) == 3
    processes.check_equal({"x": 1})
    with pytest.raises(KeyError):
        processes.in_all(lambda: {}["missing"])

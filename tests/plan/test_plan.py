"""`kdjax plan` as a user sees it; the compilers themselves, if they are installed."""

import importlib.util
import io
import json

import pytest
from rich.console import Console

from kdjax import cli, report
from kdjax.plan import DataShape, compiling, plan, topology
from kdjax.plan.targets import check_compiler, parse

FOUND = {
    "compiles": True,
    "seconds": {"trace": 1.0, "compile": 43.2},
    "devices": 1,
    "device_kind": "NVIDIA H200",
    "execution": "merged",
    "steps_per_dispatch": 23,
    "memory_bytes": {
        "planned": 7.5e9, "state": 1.25e8, "data": 2e6, "activations": 3e8,
        "usable": 6e9, "device": 8e9,
    },
    "counts": {
        "launches": 1638.4,
        "bytes": 3.07e9,
        "operations": 69e9,
        "launches_by_kind": {"copy": 20.0, "other": 1618.4},
        "collectives": {"launches": 12.0, "bytes": 5e6},
        "copies": {
            "launches": 20.0,
            "bytes": 4.5e6,
            "by_line": [
                {"source": f"kdjax/a.py:{line}", "launches": 2.0, "bytes": 4.5e5}
                for line in range(1, 11)
            ],
        },
        "uncounted_loops": 1,
    },
    "estimate": {
        "step_seconds": {"low": 0.00215, "high": 0.00414},
        "images_per_second": {"low": 30918.0, "high": 59535.0},
        "bound_by": "launches",
        "shares": {"launches": 0.62, "memory": 0.3, "arithmetic": 0.08, "collectives": 0.0},
    },
}  # fmt: skip
REFUSED = {"compiles": False, "reason": "RESOURCE_EXHAUSTED: no room"}


@pytest.fixture
def jobs(monkeypatch):
    """A list of the jobs that would be compiled; all compilers count as installed."""
    asked = []

    def compile_apart(job):
        asked.append(job)
        return REFUSED if json.loads(job.config)["batch_size"] == 60 else FOUND

    monkeypatch.setattr("kdjax.plan.run.compile_apart", compile_apart)
    monkeypatch.setattr("kdjax.plan.run.check_compiler", lambda target: None)
    return asked


def test_every_combination_is_compiled_and_recorded(jobs, tmp_path, capsys):
    out = tmp_path / "new" / "plan.json"
    arguments = ["--target=h200,v5e:2x2", "--executions=merged,auto", "--batches=40"]
    assert cli.main(["plan", *arguments, f"--out={out}", "--config.compute.dtype=bfloat16"]) == 0
    record = json.loads(out.read_text())
    assert [
        (row["target"], row["asked_execution"], row["batch_size"]) for row in record["results"]
    ] == [
        ("h200", "merged", 40), ("h200", "auto", 40),
        ("v5e:2x2", "merged", 40), ("v5e:2x2", "auto", 40),
    ]  # fmt: skip
    # The shape of the digits: 10 classes with 20 labels each, 8 x 8 pixels.
    assert record["data"]["sizes"]["train"] == 200
    assert record["data"]["image_shape"] == [8, 8, 1]
    assert all(json.loads(job.config)["compute"]["dtype"] == "bfloat16" for job in jobs)
    assert record["model"].keys() == {"gpu", "tpu"}
    assert record["chips"]["h200"]["bandwidth"] == 4.8e12
    shown = capsys.readouterr()
    assert "estimated" in shown.out and "31,000 to 60,000" in shown.out
    assert "[4/4] compiling for v5e:2x2: auto, batch 40" in shown.err
    # A second run may replace the file of the first.
    assert cli.main(["plan", "--target=h200", f"--out={out}"]) == 0


def test_what_does_not_compile_is_said(jobs, capsys):
    assert cli.main(["plan", "--target=h200", "--batches=60,40"]) == 1
    assert "does not compile: RESOURCE_EXHAUSTED: no room" in capsys.readouterr().out


def test_data_may_be_elsewhere(jobs):
    arguments = ["--config.data.name=cifar10", "--config.data.data_dir=/nowhere"]
    shape = ["--images=50000", "--image_size=32", "--classes=100"]
    best = "--config.evaluation.select=best"  # Shapes have no validation images, and need none.
    assert cli.main(["plan", "--target=h200", *arguments, *shape, best]) == 0
    assert jobs[0].data == {
        "sizes": {"train": 50000, "validation": 0, "test": 0},
        "image_shape": (32, 32, 3),
        "classes": 100,
        "streamed": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target=h20"], "did you mean h200?"),
        (["--target=h200", "--executions=fast"], "config.compute.execution is 'fast'"),
        (["--target=a100:3", "--batches=40"], "it must be divisible by the 3 devices"),
        (["--target=h200", "--batches=0"], "config.batch_size is 0"),
        (["--target=h200", "--batches=201"], "at most the 200 training images"),
        (["--target=h200:2", "--config.compute.devices=4"], "--target=h200:2 has 2"),
        (["--target=h200", "--images=9"], "--image_size is not given: at least 8"),
        (["--target=h200", "--out=."], "that is a directory"),
        (["--target=h200", "--config.epoch=3"], "did you mean config.epochs?"),
    ],
)
def test_bad_values_are_refused_before_anything_is_compiled(jobs, capsys, arguments, message):
    assert cli.main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not jobs


def test_a_file_of_something_else_stays(jobs, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text('{"kind": "kdjax bench"}')
    assert cli.main(["plan", "--target=h200", f"--out={path}"]) == 2
    assert "was not written by `kdjax plan`" in capsys.readouterr().err
    assert path.read_text() == '{"kind": "kdjax bench"}'


@pytest.mark.parametrize(("name", "package"), [("h200", "cuda"), ("v5e", "tpu")])
def test_a_missing_compiler_is_named(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf'not installed: pip install "\.\[{package}\]"'):
        check_compiler(parse(name))


def test_bad_flags_are_named_before_a_missing_compiler(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["plan", "--target=h200", "--executions=fast"]) == 2
    assert "config.compute.execution is 'fast'" in capsys.readouterr().err


def printed(record, width):
    console = Console(file=io.StringIO(), width=width)
    report.print_plan(record, console)
    return console.file.getvalue()


def test_the_tables(jobs, small_config):
    shape = DataShape({"train": 90, "validation": 0, "test": 0}, (8, 8, 3), 4)
    record = plan(small_config, ["h200"], batches=[16, 60], data=shape)
    text = printed(record, 240)
    assert "resnet8 x 2, ensemble, float32; 90 images of 8 x 8 x 3" in text
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["h200", "merged", "16", "31,000 to 60,000", "launches 62 %", "2.1 to 4.1", "1,638",
         "3.07", "69", "12", "20", "4.5", "23", "43"],
        ["h200", "auto", "60", "no program", *[""] * 10],
        ["h200", "merged", "16", "7,500", "125", "2", "300", "6,000", "8,000", "no"],
    ]  # fmt: skip
    assert "0.450 MB in    2.0 launches  kdjax/a.py:8\n  and 2 more lines" in text
    assert "h200, merged, 16: 1 loop(s) do not say how often they run" in text
    # The model's constants are shown, but only those of the requested platforms.
    assert "gpu, slow: 2.5 us a launch" in text and "tpu, slow" not in text
    narrow = printed(record, 60)
    assert "31,000 to 60,000" in narrow and "Columns that do not fit here" in narrow
    table = [line for line in narrow.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, table)) <= 60


def test_the_other_compilers_get_no_flags_of_the_cpu_s():
    given = {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false --xla_dump_to=/x", "HOME": "/h"}
    gpu = topology.environment(parse("h200"), given)
    assert gpu["XLA_FLAGS"] == "--xla_dump_to=/x --xla_gpu_autotune_level=0"
    tpu = topology.environment(parse("v5e"), given)
    assert (tpu["XLA_FLAGS"], tpu["JAX_PLATFORMS"], tpu["HOME"]) == (
        "--xla_dump_to=/x",
        "cpu",
        "/h",
    )
    assert given["XLA_FLAGS"].startswith("--xla_cpu")


def test_a_compiler_that_ends_its_process_is_an_answer(monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'F0000 out of memory' >&2\nexit 134\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    job = compiling.Job("h200", "ensemble", "{}", "", {})
    assert compiling.compile_apart(job) == {
        "compiles": False,
        "reason": "the process ended with 134: F0000 out of memory",
    }


@pytest.mark.parametrize("name", ["h200", "v5e"])
def test_the_compiler_itself(small_config, name):
    try:
        check_compiler(parse(name))
    except ValueError as error:
        pytest.skip(str(error))
    small_config.update(method="independent", student_scales=(1.0,))
    small_config.compute.steps_per_dispatch = 2
    (found,) = plan(small_config, [name])["results"]
    assert found["compiles"], found
    assert found["steps_per_dispatch"] == 2 and found["counts"]["uncounted_loops"] == 0
    # Nine convolutions and two projections forward, as many kernel gradients, and input gradients
    # for all but one.
    assert found["counts"]["launches_by_kind"]["convolution"] >= 9 + 9 + 8
    memory = found["memory_bytes"]
    assert memory["state"] + memory["data"] < memory["planned"] < memory["usable"]
    speed = found["estimate"]["images_per_second"]
    assert 100 < speed["low"] < speed["high"]

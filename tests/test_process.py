"""The environment variables that the command sets before JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from kdjax import process

KEPT = Path("compiled")


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(process, "accelerator_installed", lambda: False)


def test_a_cpu_gets_flags_pages_and_a_cache(no_accelerator):
    changed = process.tuned({}, KEPT)
    assert changed["JAX_COMPILATION_CACHE_DIR"] == "compiled"
    assert "hugetlb=1" in changed["GLIBC_TUNABLES"] or sys.platform != "linux"
    assert process.tuned(changed, KEPT) == {}, "a second look finds nothing to do"


@pytest.mark.parametrize(
    ("release", "emitters", "convolution"),
    [("0.10.2", True, True), ("0.12.0.1", False, True), ("0.13.0", False, False)],
)
def test_flags_are_those_that_the_release_knows(
    no_accelerator, monkeypatch, release, emitters, convolution
):
    monkeypatch.setattr(process.importlib.metadata, "version", lambda _: release)
    flags = process.tuned({}, KEPT).get("XLA_FLAGS", "")
    assert ("xla_cpu_use_fusion_emitters" in flags) == emitters
    assert ("ynn_fusion_type=-individual_convolution" in flags) == convolution


def test_an_accelerator_gets_the_cache_alone(monkeypatch):
    monkeypatch.setattr(process, "accelerator_installed", lambda: True)
    assert not {"XLA_FLAGS", "GLIBC_TUNABLES"} & set(process.tuned({}, KEPT))
    assert "GLIBC_TUNABLES" in process.tuned({"JAX_PLATFORMS": "cpu"}, KEPT)
    assert "GLIBC_TUNABLES" not in process.tuned({"JAX_PLATFORMS": "cuda,cpu"}, KEPT)


def test_what_the_user_set_stays(no_accelerator):
    given = {
        "XLA_FLAGS": "--xla_backend_optimization_level=3 --xla_dump_to=x",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
        "JAX_COMPILATION_CACHE_DIR": "",
    }
    changed = process.tuned(given, KEPT)
    assert set(changed) <= {"XLA_FLAGS"}
    assert changed.get("XLA_FLAGS", given["XLA_FLAGS"]).startswith(given["XLA_FLAGS"])
    assert "optimization_level=1" not in changed.get("XLA_FLAGS", "")
    other = process.tuned({"GLIBC_TUNABLES": "glibc.rtld.nns=2"}, KEPT)
    assert other["GLIBC_TUNABLES"].startswith("glibc.rtld.nns=2:")


def test_it_can_be_switched_off(no_accelerator):
    assert process.tuned({"KDJAX_TUNE": "0"}, KEPT) == {}


def test_the_program_starts_anew_with_its_arguments(tmp_path):
    """A real process restarts once, and keeps its arguments and its process number."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from kdjax import process\n"
        "print('start', os.getpid(), flush=True)\n"
        "process.restart_tuned(sys.orig_argv, Path('compiled'))\n"
        "print(json.dumps([sys.argv[1:], os.environ.get('JAX_COMPILATION_CACHE_DIR')]))\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR", "KDJAX_TUNE")
    }
    command = [sys.executable, str(program), "--name=a b", "--", "c"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *starts, last = done.stdout.splitlines()
    assert len(starts) == 2 and starts[0] == starts[1]
    assert json.loads(last) == [["--name=a b", "--", "c"], "compiled"]


def test_a_platform_that_is_not_there_is_named(monkeypatch):
    def missing():
        raise AssertionError  # As JAX does for CUDA, without any text.

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert process.platform_problem() == ""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    problem = process.platform_problem()
    assert problem.startswith(
        "JAX_PLATFORMS is 'cuda', and JAX cannot use it here (AssertionError)"
    )
    monkeypatch.undo()
    assert process.platform_problem() == ""

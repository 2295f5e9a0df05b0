"""Commands and environments that start the workers of both libraries."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import records
from worker import Contestant

from kdjax import process

_FOLDER = Path(__file__).resolve().parent


@contextlib.contextmanager
def caches(kept: str = "") -> Iterator[str]:
    """Yields a directory for compiled programs: ``kept``, or an empty one that is removed later."""
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield folder


def kdjax(
    name: str,
    *,
    cache: str,
    device: str = "cpu",
    tf32: bool = True,
    virtual_devices: int = 0,
    **flags: object,
) -> Contestant:
    """Returns a worker of ``kdjax_worker.py``, with the environment that command ``kdjax`` sets.

    Args:
      name: name in tables.
      cache: the directory from :func:`caches`.
      device: ``cpu`` or ``cuda``.
      tf32: whether float32 convolutions and products may use TF32 on CUDA.
      virtual_devices: number of virtual devices of the CPU; 0: none.
      flags: flags of the worker.
    """
    own = "JAX_COMPILATION_CACHE_DIR"
    given = {variable: value for variable, value in os.environ.items() if variable != own}
    changed = {"JAX_PLATFORMS": {"cpu": "cpu", "cuda": "cuda,cpu"}[device]}
    if device == "cuda":
        # Other contestants hold memory of the same GPU while they wait.
        changed["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if virtual_devices:
        flag = f"--xla_force_host_platform_device_count={virtual_devices}"
        changed["XLA_FLAGS"] = f"{given.get('XLA_FLAGS', '')} {flag}".strip()
        # On few cores XLA starts too few threads: virtual devices wait for each other.
        changed["NPROC"] = str(max(16, records.usable_cores()))
    changed |= process.tuned(given | changed, Path(cache) / name / "jax")
    precision = {"JAX_DEFAULT_MATMUL_PRECISION": None if tf32 else "float32"}
    environment = {own: None, **(precision if device == "cuda" else {}), **changed}
    return Contestant(name, _command(sys.executable, "kdjax_worker.py", flags), environment)


def torch(
    name: str,
    *,
    python: str,
    cache: str,
    device: str = "cpu",
    environment: Mapping[str, str] | None = None,
    **flags: object,
) -> Contestant:
    """Returns a worker of ``torch_worker.py``.

    Args:
      name: name in tables.
      python: an interpreter that has PyTorch.
      cache: the directory from :func:`caches`.
      device: ``cpu`` or ``cuda``.
      environment: further variables.
      flags: flags of the worker.
    """
    folder = Path(cache) / name
    changed = {
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }
    # The malloc settings that kdjax chooses are part of neither library: give them to both.
    tuned = process.tuned({"JAX_PLATFORMS": device}, folder)
    if "GLIBC_TUNABLES" in tuned:
        changed["GLIBC_TUNABLES"] = tuned["GLIBC_TUNABLES"]
    flags = {"device": device, **flags}
    command = _command(python, "torch_worker.py", flags)
    return Contestant(name, command, changed | dict(environment or {}))


def _command(python: str, program: str, flags: Mapping[str, object]) -> tuple[str, ...]:
    return (python, str(_FOLDER / program), *(f"--{name}={flag}" for name, flag in flags.items()))

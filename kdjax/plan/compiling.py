"""Compiles one program for one target, in a separate process.

JAX chooses its platform when it starts, and a compiler may end its process. So each program gets
its own process: ``python -m kdjax.plan.compiling FILE`` reads a :class:`Job` from standard input
and writes the result to FILE, both as JSON.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kdjax
from kdjax.plan import topology
from kdjax.plan.targets import parse


@dataclasses.dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes:
      target: the target's name.
      method: ``ensemble`` or ``independent``.
      config: the run's configuration, as JSON.
      config_file: a config file to run first, which may register terms; empty means none.
      data: fields of :class:`kdjax.plan.stand_in.DataShape`.
    """

    target: str
    method: str
    config: str
    config_file: str
    data: dict[str, Any]


def compile_apart(job: Job) -> dict[str, Any]:
    """Compiles a program in a new process.

    Args:
      job: what to compile.

    Returns:
      What :func:`compile_here` returns. If the compiler ends its process, ``compiles`` is False and
      ``reason`` is one line of text.
    """
    environment = topology.environment(parse(job.target), os.environ)
    package = str(Path(kdjax.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [package, environment.get("PYTHONPATH")])
    )
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory) / "found.json"
        ended = subprocess.run(
            [sys.executable, "-m", "kdjax.plan.compiling", str(found)],
            input=json.dumps(dataclasses.asdict(job)),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if found.exists():
            return json.loads(found.read_text())
    said = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    reason = said[-1][:300] if said else "it printed no error"
    return {"compiles": False, "reason": f"the process ended with {ended.returncode}: {reason}"}


def compile_here(job: Job) -> dict[str, Any]:
    """Compiles in this process, which must have the variables of :func:`topology.environment`.

    Args:
      job: what to compile.

    Returns:
      ``compiles``; if that is False, the ``reason``; else ``seconds``, ``devices``,
      ``device_kind``, ``execution``, ``steps_per_dispatch``, ``memory_bytes``, ``counts`` and
      ``estimate``.
    """
    target = parse(job.target)
    devices = topology.devices(target)
    # The devices have to be requested before JAX runs anything.
    from kdjax import config as configuration
    from kdjax.plan.lower import lowered
    from kdjax.plan.stand_in import DataShape

    if job.config_file:
        _run_config(job.config_file)
    config = configuration.from_json(job.config)
    shape = DataShape(**{**job.data, "image_shape": tuple(job.data["image_shape"])})
    try:
        return lowered(config, job.method, target, devices, shape)
    except Exception as error:  # Compilers raise errors of any type; the error is the result.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[0] if lines else type(error).__name__
        return {"compiles": False, "reason": text[:500]}


def _run_config(argument: str) -> None:
    """Runs a config file, as the command line does, because it may register terms."""
    import runpy

    path, _, given = argument.partition(":")
    sys.path.insert(0, str(Path(path).resolve().parent))
    runpy.run_path(path)["get_config"](*([given] if given else []))


if __name__ == "__main__":
    found = compile_here(Job(**json.load(sys.stdin)))
    Path(sys.argv[1]).write_text(json.dumps(found, allow_nan=False))

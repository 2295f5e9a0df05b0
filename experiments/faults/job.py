"""A short real training run: how it is run, and which outcome it must have."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Six epochs of two students on the embedded digits: 126 steps, a checkpoint every 21.
OVERRIDES = (
    f"--config={Path(__file__).with_name('defaults.py')}",
    "--config.network_width=0.25",
    "--config.student_scales=(1.0,0.5)",
    "--config.method=ensemble",
    "--config.seeds=(0,)",
    "--config.epochs=6",
    "--config.weight_ramp.epochs=6.0",
    "--config.checkpoint.every_epochs=1",
    "--config.evaluation.every_epochs=1",
    "--config.log.every_steps=7",
    "--config.log.progress=False",
    "--config.compute.batch_norm=global",
)
STEPS = 126
RUN = "ensemble-seed0"
# A process that should end by itself counts as hanging after this time.
HANG_SECONDS = 60


class Job:
    """Runs of one configuration under ``folder``, each in a workdir of its own.

    Attributes:
      expected: the :func:`outcome` of the undisturbed run.
    """

    def __init__(self, folder: Path, devices: int = 1, overrides: Sequence[str] = ()):
        """Runs the job undisturbed, which also fills the cache of compiled programs."""
        self.folder = folder
        self._overrides = (*OVERRIDES, *overrides)
        self.environment = os.environ | {
            "KDJAX_CACHE": str(folder / "cache"),
            "JAX_PLATFORMS": "cpu",
            "NPROC": "16",
            **_virtual(devices),
        }
        self._count = 0
        workdir = self.workdir("expected")
        done = self.run(workdir)
        if done.returncode:
            raise RuntimeError(f"the undisturbed run failed: {done.stderr}")
        self.expected = outcome(workdir)

    def workdir(self, name: str) -> Path:
        """Returns a new path, which does not exist yet."""
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    def command(self, workdir: Path, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "kdjax", "train", f"--workdir={workdir}", *self._overrides, *more
        ]  # fmt: skip

    def start(self, workdir: Path, *more: str, devices: int = 0) -> subprocess.Popen:
        """Starts a run in the background; its output goes to a file beside the workdir.

        The output passes through a pipe and this process writes the file, so that a run whose disk
        is full can still report errors.
        """
        process = subprocess.Popen(
            self.command(workdir, *more),
            env=self.environment | (_virtual(devices) if devices else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

        def write() -> None:
            with process.stdout, open(f"{workdir}.log", "ab", buffering=0) as log:
                for line in process.stdout:
                    log.write(line)

        threading.Thread(target=write, daemon=True).start()
        return process

    def run(self, workdir: Path, *more: str) -> subprocess.CompletedProcess:
        """Runs the job to its end."""
        return subprocess.run(
            self.command(workdir, *more),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=10 * HANG_SECONDS,
        )

    def wrong_numbers(self, workdir: Path, *, metrics: bool = True) -> int:
        """Returns how many numbers of a finished run differ from the undisturbed run's.

        After a signal a line of metrics covers fewer steps, so that lines of metrics cannot be
        compared: pass ``metrics=False``.
        """
        found = outcome(workdir)
        if not metrics:
            found["metrics"] = self.expected["metrics"]
        return differences(self.expected, found)


def _virtual(devices: int) -> dict[str, str]:
    """Returns XLA_FLAGS for that many devices; keeps other flags, for example for fast compile."""
    name = "--xla_force_host_platform_device_count"
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if name not in flag]
    return {"XLA_FLAGS": " ".join([*others, f"{name}={devices}"])}


def outcome(workdir: Path) -> dict[str, Any]:
    """Returns everything in a finished workdir that must not depend on interruptions."""
    results = json.loads((workdir / "results.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    sums = {}
    for kind in ("last", "best"):
        step = latest_step(workdir, kind)
        record = workdir / "checkpoints" / RUN / kind / str(step) / "record" / "metadata"
        parts = json.loads(record.read_text())["sha256"]
        sums[kind] = {"step": step} | {k: v for k, v in parts.items() if k != "record"}
    return {
        "students": results["students"],
        "ensemble": results["ensemble"],
        "other": results["other"],
        "checkpoints": sums,
        "metrics": lines,
    }


def differences(expected: Any, found: Any) -> int:
    """Returns how many leaves of two JSON values are not exactly equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return sum(differences(expected.get(k), found.get(k)) for k in {**expected, **found})
    if isinstance(expected, list) and isinstance(found, list):
        longer = max(len(expected), len(found))
        pad = [[*values, *[None] * (longer - len(values))] for values in (expected, found)]
        return sum(differences(a, b) for a, b in zip(*pad, strict=True))
    return int(expected != found)


def latest_step(workdir: Path, kind: str = "last") -> int:
    """Returns the step of the newest finished checkpoint, or -1 if there is none."""
    folder = workdir / "checkpoints" / RUN / kind
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def limit_files(process: subprocess.Popen, size: int | None) -> None:
    """Limits the size in bytes of every file of a running process, as a full disk does."""
    limit = resource.RLIM_INFINITY if size is None else size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def until_step(workdir: Path, step: int, *processes: subprocess.Popen) -> None:
    """Waits until training has logged a step after ``step``, or until a process has ended."""
    metrics = workdir / "metrics.jsonl"
    while all(process.poll() is None for process in processes):
        lines = metrics.read_text().count('"kind": "train"') if metrics.exists() else 0
        if lines * 7 > step:
            return
        time.sleep(0.02)


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Returns whether the process ended by itself within ``seconds``."""
    try:
        process.wait(min(seconds, 10 * HANG_SECONDS))
    except subprocess.TimeoutExpired:
        return False
    return True


def copy(source: Path, target: Path) -> Path:
    """Copies a workdir without its lock; returns ``target``."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock"))
    return target


def last_line(text: str) -> str:
    """Returns the last line that is not blank, or an empty string."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""

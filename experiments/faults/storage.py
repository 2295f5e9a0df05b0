"""Storage faults: damaged checkpoints, a full disk, a workdir that is read-only or in use."""

import contextlib
import functools
import io
import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from job import (
    HANG_SECONDS,
    RUN,
    STEPS,
    Job,
    copy,
    last_line,
    latest_step,
    limit_files,
    until_step,
    wait,
)
from trial import Trial

from kdjax.train.program.state import TrainState
from kdjax.train.run import workdir as workdirs
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints
from kdjax.train.tasks.experiment import resolve

# The size of the largest file that a run can write while the disk is full.
_LEFT_BYTES = 600


def damaged_checkpoints(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """A file of the newest checkpoint is damaged: recovery has to find a good checkpoint.

    That is the checkpoint before it, or the newest one if the damage does not matter. Every
    restored state is compared with the saved one, number by number.
    """
    half = _half_done(job)
    good = {step: _read(half, step) for step in (latest_step(half), _previous(half))}
    for number in range(count):
        fault, harm = list(_HARMS.items())[number % len(_HARMS)]
        workdir = copy(half, job.workdir("damaged"))
        newest = latest_step(workdir)
        harmed = harm(workdir / "checkpoints" / RUN / "last" / str(newest), chance)
        found = _recover(workdir, half)
        if found is None:
            yield Trial(f"checkpoint {fault}", False, False, note=str(harmed))
            continue
        step, state, warnings = found
        wrong = sum(int((a != b).any()) for a, b in zip(state, good[step], strict=True))
        # No message is needed if the newest step was recovered; a lost step must be named.
        named = step == newest or str(workdir) in warnings
        lost = 0 if step in (newest, _previous(half)) else newest - step
        yield Trial(f"checkpoint {fault}", named, True, lost, wrong, note=f"{harmed}: {warnings}")
        shutil.rmtree(workdir)


def resumed_after_damage(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """The same damage, but the command itself resumes to the end; metrics are cut mid-line too."""
    half = _half_done(job)
    for number in range(count):
        _, harm = list(_HARMS.items())[number % len(_HARMS)]
        workdir = copy(half, job.workdir("resumed"))
        harm(workdir / "checkpoints" / RUN / "last" / str(latest_step(workdir)), chance)
        metrics = workdir / "metrics.jsonl"
        os.truncate(metrics, metrics.stat().st_size - chance.randrange(1, 200))
        done = job.run(workdir)
        wrong = job.wrong_numbers(workdir) if done.returncode == 0 else 1
        yield Trial(
            "damaged checkpoint and cut metrics",
            True,
            done.returncode == 0,
            wrong_numbers=wrong,
            note=done.stderr[-300:],
        )


def full_disks(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """The disk fills up in the middle of training; every second time it stays full."""
    for number in range(count):
        for_ever = number % 2 == 1
        workdir = job.workdir("full")
        process = job.start(workdir)
        start = chance.randrange(10, STEPS // 2)
        until_step(workdir, start, process)
        before = latest_step(workdir)
        limit_files(process, _LEFT_BYTES)
        if for_ever:
            ended = wait(process, 2 * HANG_SECONDS)
            text = Path(f"{workdir}.log").read_text()
            kept = latest_step(workdir) >= before
            # Training continues on a full disk. The error comes at the end, if something was not
            # written.
            detected = ended and process.returncode == 2 and "could not be written" in text
            finished = kept and job.run(workdir).returncode == 0
        else:
            time.sleep(chance.uniform(0.05, 0.6))
            limit_files(process, None)
            finished = wait(process, 2 * HANG_SECONDS) and process.returncode == 0
            detected = finished
        wrong = job.wrong_numbers(workdir) if finished else 1
        kind = "disk full to the end" if for_ever else "disk full for a while"
        yield Trial(kind, detected, finished, wrong_numbers=wrong)


def refused_workdirs(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """Two runs in one workdir, and workdirs that cannot be written."""
    for number in range(count):
        workdir = job.workdir("taken")
        if number % 2:
            done = job.run(Path("/sys/kdjax-run"))  # Nobody can create a folder in /sys.
            refused = done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
            yield Trial("read-only workdir", refused, refused, note=last_line(done.stderr))
            continue
        first = job.start(workdir)
        until_step(workdir, chance.randrange(60), first)
        # Stop the first run: otherwise it could finish before the second one starts.
        first.send_signal(signal.SIGSTOP)
        second = job.run(workdir)
        first.send_signal(signal.SIGCONT)
        refused = second.returncode == 2 and "in use by another process" in second.stderr
        finished = wait(first, 2 * HANG_SECONDS) and first.returncode == 0
        wrong = job.wrong_numbers(workdir) if finished else 1
        yield Trial("two runs in one workdir", refused, finished, wrong_numbers=wrong)


def _half_done(job: Job) -> Path:
    """Returns the workdir of a run that was killed after a few checkpoints."""
    workdir = job.workdir("half")
    process = job.start(workdir)
    until_step(workdir, 90, process)
    process.kill()
    process.wait()
    return workdir


def _previous(workdir: Path) -> int:
    folder = workdir / "checkpoints" / RUN / "last"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())[-2]


def _recover(workdir: Path, half: Path) -> tuple[int, list[Any], str] | None:
    """Returns the step, arrays and messages of the checkpoint a run would use, or None."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        state = _state(workdir, half)
    except CheckpointError:
        return None
    finally:
        logging.getLogger().removeHandler(handler)
    return int(state.step), jax.tree.leaves(state), said.getvalue()


def _read(workdir: Path, step: int) -> list[Any]:
    """Returns the arrays of one checkpoint, read from a copy in which it is the newest."""
    import jax

    copied = copy(workdir, workdir.with_name(f"{workdir.name}-step{step}"))
    folder = copied / "checkpoints" / RUN / "last"
    for path in folder.iterdir():
        if path.name.isdecimal() and int(path.name) > step:
            shutil.rmtree(path)
    return jax.tree.leaves(_state(copied, workdir))


def _state(workdir: Path, half: Path) -> TrainState:
    template, record = _template(half)
    with contextlib.closing(Checkpoints(workdir / "checkpoints" / RUN)) as checkpoints:
        found = checkpoints.recover(template, record)
    assert found is not None
    return found[0]


@functools.cache
def _template(workdir: Path) -> tuple[TrainState, dict[str, Any]]:
    experiment = resolve(workdirs.read_config(workdir), workdirs.read_student_widths(workdir))
    runner = experiment.runner("ensemble", experiment.feed())
    return runner.initial_state(0), experiment.record


def _some_file(step: Path, chance: random.Random) -> Path:
    """Draws a file with probability proportional to its size, so that it mostly matters."""
    files = sorted(path for path in step.rglob("*") if path.is_file())
    return chance.choices(files, [path.stat().st_size + 200 for path in files])[0]


def _truncate(step: Path, chance: random.Random) -> Path:
    path = _some_file(step, chance)
    os.truncate(path, chance.randrange(path.stat().st_size))
    return path


def _delete(step: Path, chance: random.Random) -> Path:
    path = _some_file(step, chance)
    path.unlink()
    return path


def _flip(step: Path, chance: random.Random) -> Path:
    path = _some_file(step, chance)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return path


def _overwrite(step: Path, chance: random.Random) -> Path:
    path = _some_file(step, chance)
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    content[start : start + 64] = chance.randbytes(len(content[start : start + 64]))
    path.write_bytes(content)
    return path


def _empty(step: Path, chance: random.Random) -> Path:
    for path in step.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return step


_HARMS: dict[str, Callable[[Path, random.Random], Path]] = {
    "file cut short": _truncate,
    "file deleted": _delete,
    "bit flipped": _flip,
    "64 bytes overwritten": _overwrite,
    "directory emptied": _empty,
}

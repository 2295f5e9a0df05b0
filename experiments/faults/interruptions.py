"""Interruptions: kills at any moment, signals, a dead peer process, another number of devices."""

import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from job import HANG_SECONDS, STEPS, Job, latest_step, until_step, wait
from trial import Trial


def kills(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """Kill -9 at random moments from start to end; every run is restarted until it finishes."""
    done = 0
    duration = _duration(job)
    while done < count:
        workdir = job.workdir("killed")
        here: list[tuple[int, int]] = []
        while True:
            process = job.start(workdir)
            # Most runs are killed several times. After the last kill the run may finish.
            delay = chance.uniform(0.0, duration) if done + len(here) < count else 1e9
            if wait(process, delay):
                if process.returncode:
                    yield Trial("kill -9", False, False, note=_tail(workdir))
                break
            before = latest_step(workdir)
            process.kill()
            process.wait()
            here.append((before, latest_step(workdir)))
        wrong = job.wrong_numbers(workdir)
        for before, after in here:
            # A kill must not remove the newest checkpoint: if it does, steps count as lost.
            yield Trial("kill -9", True, wrong == 0, max(0, before - after), wrong)
        done += len(here)


def signals(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """SIGTERM and Ctrl-C at random moments: the run has to save, say so, and continue later."""
    for number in range(count):
        kind = (signal.SIGTERM, signal.SIGINT)[number % 2]
        workdir = job.workdir("signalled")
        process = job.start(workdir)
        until_step(workdir, chance.randrange(0, STEPS // 2), process)
        process.send_signal(kind)
        started = time.monotonic()
        ended = wait(process, HANG_SECONDS)
        seconds = time.monotonic() - started
        said = f"{kind.name}: " in Path(f"{workdir}.log").read_text()
        status = {signal.SIGTERM: 0, signal.SIGINT: 130}[kind]
        saved = latest_step(workdir)
        finished = job.run(workdir).returncode == 0
        wrong = job.wrong_numbers(workdir, metrics=False) if finished else 1
        yield Trial(
            kind.name,
            ended and said and process.returncode == status and saved >= 0,
            finished,
            wrong_numbers=wrong,
            seconds=seconds,
        )


def dead_peers(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """One of two processes is killed: the other has to end and say why; a restart continues both.

    Two processes with one device each must give the same results as one process with two devices.
    """
    for number in range(count):
        workdir = job.workdir("peers")
        victim = number % 2
        processes = _two(job, workdir)
        until_step(workdir, chance.randrange(0, STEPS // 2), *processes)
        processes[victim].kill()
        started = time.monotonic()
        survivor = processes[1 - victim]
        ended = wait(survivor, HANG_SECONDS)
        seconds = time.monotonic() - started
        if not ended:
            survivor.kill()
        # If the first process was killed, JAX may notice before kdjax does and end the second one.
        text = Path(f"{workdir}.log").read_text()
        said = "cannot go on" in text or "another task died" in text
        before = latest_step(workdir)
        again = _two(job, workdir)
        finished = all(wait(process, 10 * HANG_SECONDS) for process in again)
        finished = finished and not any(process.returncode for process in again)
        wrong = job.wrong_numbers(workdir) if finished else 1
        lost = max(0, before - latest_step(workdir))
        yield Trial("dead peer process", ended and said, finished, lost, wrong, seconds)


def device_counts(job: Job, count: int, chance: random.Random) -> Iterator[Trial]:
    """A run that continues on another number of devices, twice."""
    for number in range(count):
        workdir = job.workdir("devices")
        counts = ((8, 2, 8), (2, 8, 1))[number % 2]
        for place, devices in enumerate(counts):
            more = [f"--config.compute.devices={devices}"]
            if place < len(counts) - 1:
                process = job.start(workdir, *more)
                until_step(workdir, 21 * (place + 1) + chance.randrange(10), process)
                process.send_signal(signal.SIGTERM)
                ended = wait(process, HANG_SECONDS) and process.returncode == 0
                if not ended:
                    yield Trial("other devices", False, False, note=_tail(workdir))
        finished = job.run(workdir, *more)
        worst = _difference(job, workdir) if finished.returncode == 0 else 1.0
        yield Trial(
            "other number of devices",
            True,
            finished.returncode == 0,
            wrong_numbers=int(worst > 1e-2),
            note=f"{counts}: losses of the last three epochs differ by {worst:.1e} of themselves",
        )


def _difference(job: Job, workdir: Path) -> float:
    """Returns the largest relative difference of the losses in the last three epochs.

    Sums over another number of devices round differently. If an activation is within rounding of
    zero, its gradient can differ completely, and this difference grows with every step. The epochs
    that were interrupted are left out: their lines of metrics average over other steps.
    """
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [
        {line["step"]: line["loss"] for line in some if line["kind"] == "train"}
        for some in (job.expected["metrics"], lines)
    ]
    return max(abs(losses[1][step] / losses[0][step] - 1) for step in losses[0] if step > 63)


def _duration(job: Job) -> float:
    """Returns the seconds of an undisturbed run, with compiled programs in the cache."""
    started = time.monotonic()
    job.run(job.workdir("timed"))
    return time.monotonic() - started


def _two(job: Job, workdir: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = [f"--coordinator={address}", "--num_processes=2"]
    return [job.start(workdir, *shared, f"--process_id={number}", devices=1) for number in (0, 1)]


def _tail(workdir: Path) -> str:
    return Path(f"{workdir}.log").read_text()[-300:]

"""The protocol between a measuring program and its workers, each a process with an environment of
its own, so that kdjax and PyTorch need not be installed together.

A worker prepares its training job, takes the first step and prints one line of JSON with
``"ready": true``, ``first_step_seconds``, ``versions`` and ``hardware``. Then it answers each line
``{"steps": n}`` on its standard input with ``{"seconds": t, "cpu_seconds": c, "steps": n}``, where
``c`` is the CPU time of all its threads. It ends when its input ends.
"""

import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_STARTED = time.perf_counter()  # Workers import this module before anything that takes time.

# One call of the job: takes that many steps or a few more, waits for the device, returns how many.
Run = Callable[[int], int]

_PATIENCE = 10.0  # Seconds that a process has to end by itself.


def serve(prepare: Callable[[], tuple[Run, dict[str, Any]]]) -> None:
    """Runs the worker's side until the input ends; ``prepare`` returns the job and its record.

    Output that libraries print goes to standard error: standard output belongs to the protocol.
    """
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)

        def reply(content: dict[str, Any]) -> None:
            print(json.dumps(content), file=replies, flush=True)

        run, record = prepare()
        prepared = time.perf_counter() - _STARTED
        run(1)
        first = time.perf_counter() - _STARTED
        reply({"ready": True, "first_step_seconds": first, "prepare_seconds": prepared, **record})
        for line in sys.stdin:
            started, busy = time.perf_counter(), time.process_time()
            taken = run(json.loads(line)["steps"])
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            reply({"seconds": seconds, "cpu_seconds": busy, "steps": taken})


def limit_cores(count: int) -> None:
    """Limits this process, and all threads it starts from now on, to ``count`` cores; 0: all."""
    if count:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A worker to be started.

    Attributes:
      name: name in tables.
      command: command line of the process.
      environment: variables to set; a variable with the value None is removed.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        """Returns the whole environment of the worker's process."""
        changes = self.environment
        kept = {name: value for name, value in os.environ.items() if name not in changes}
        return kept | {name: value for name, value in changes.items() if value is not None}

    @property
    def settings(self) -> dict[str, str | None]:
        """The environment without directories, which differ between machines."""
        return {
            name: value
            for name, value in self.environment.items()
            if value is None or not value.startswith("/")
        }


class Turn(NamedTuple):
    """The time of some steps: wall time, and CPU time summed over all cores."""

    seconds: float
    cpu_seconds: float


class WorkerError(Exception):
    """A worker ended or did not answer; the message says why."""


class Worker(contextlib.AbstractContextManager["Worker"]):
    """The measuring program's side: a started process, which ends when the context ends."""

    def __init__(self, contestant: Contestant):
        # A file instead of a pipe: it is read only at the end, and a full pipe blocks the worker.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                contestant.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=contestant.variables(),
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ready(self, timeout: float) -> dict[str, Any]:
        """Waits for the first step; returns the worker's record with ``start_seconds`` added.

        ``start_seconds`` is measured by this process, from the start of the worker.

        Raises:
          WorkerError: if the worker ended or took longer.
        """
        record = self._answer(timeout)
        record["start_seconds"] = time.perf_counter() - self._started
        return record

    def run(self, steps: int, timeout: float) -> Turn:
        """Makes the worker take that many steps.

        Raises:
          WorkerError: if the worker ended, took longer, or took another number of steps.
        """
        # If the worker has ended, the missing answer below gives a better error.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        answer = self._answer(timeout)
        if answer["steps"] != steps:
            raise WorkerError(f"took {answer['steps']} steps in place of {steps}")
        return Turn(answer["seconds"], answer["cpu_seconds"])

    def __exit__(self, *_: object) -> None:
        if self._errors.closed:  # Ended before: the number may be another process's by now.
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        # Kill the whole group: compilers that the worker started may still be running.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    def _listen(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def _answer(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f"no answer within {timeout:.0f} s") from None
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        raise WorkerError(last_words(self._errors.read()) or f"ended with status {status}")


def last_words(text: str) -> str:
    """Returns the last line that names an error, or else the last line that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return (named or lines or [""])[-1][:500]

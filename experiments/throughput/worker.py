"""The protocol between a measuring program and its workers, each a process with an environment of
its own, so that kdjax and PyTorch need not be installed together.

A worker prepares its training job, takes the first step and prints one line of JSON with
``"ready": true``, ``first_step_seconds``, ``versions`` and ``hardware``. Then it answers each line
``{"steps": n}`` on its standard input with ``{"seconds": t, "cpu_seconds": c, "steps": n}``, where
``c`` counts all its threads, and ends with the input.
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

# One call of the job: takes that many steps or a few more, waits for the device, says how many.
Run = Callable[[int], int]

_PATIENCE = 10.0  # Seconds that a process has to end by itself.


def serve(prepare: Callable[[], tuple[Run, dict[str, Any]]]) -> None:
    """The worker's side, until the input ends; ``prepare`` returns the job and what to say of it.

    Whatever libraries print goes to standard error, since standard output is the protocol's.
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
    """Leaves this process, and every thread it starts from now on, so many cores; 0: all."""
    if count:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A worker to be started.

    Attributes:
      name: in tables.
      command: of the process.
      environment: variables to set, or to remove where None.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        """The whole environment of its process."""
        changes = self.environment
        kept = {name: value for name, value in os.environ.items() if name not in changes}
        return kept | {name: value for name, value in changes.items() if value is not None}

    @property
    def settings(self) -> dict[str, str | None]:
        """The environment without directories, which belong to one machine."""
        return {
            name: value
            for name, value in self.environment.items()
            if value is None or not value.startswith("/")
        }


class Turn(NamedTuple):
    """What some steps took, by the clock and on all cores together."""

    seconds: float
    cpu_seconds: float


class WorkerError(Exception):
    """A worker ended or fell silent; the message is its last word."""


class Worker(contextlib.AbstractContextManager["Worker"]):
    """The measuring program's side: a started process, ended on leaving the context."""

    def __init__(self, contestant: Contestant):
        # A file, not a pipe: nobody reads it before the end, and a full pipe would stop the worker.
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
        """Waits for the first step; the worker's record, with ``start_seconds`` seen from here.

        Raises:
          WorkerError: if the worker ended or took longer.
        """
        record = self._answer(timeout)
        record["start_seconds"] = time.perf_counter() - self._started
        return record

    def run(self, steps: int, timeout: float) -> Turn:
        """Has the worker take that many steps.

        Raises:
          WorkerError: if the worker ended, took longer, or took another number of steps.
        """
        with contextlib.suppress(BrokenPipeError):  # The missing answer tells it better.
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        answer = self._answer(timeout)
        if answer["steps"] != steps:
            raise WorkerError(f"took {answer['steps']} steps in place of {steps}")
        return Turn(answer["seconds"], answer["cpu_seconds"])

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        # Compilers that it started may be at work still.
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
    """The line of a traceback that names the error, or else the last line there is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return (named or lines or [""])[-1][:500]

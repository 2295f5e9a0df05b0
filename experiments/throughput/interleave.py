"""Measures contestants in turn, A B C A B C ..., so that a noisy machine disturbs all alike."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from worker import Contestant, Turn, Worker, WorkerError


@dataclasses.dataclass
class Result:
    """The result of one contestant.

    Attributes:
      name: name of the contestant.
      record: the worker's message when it was ready; empty if it never was.
      seconds: wall time of each round.
      cpu_seconds: CPU time of each round, summed over all cores.
      error: why the contestant failed; empty if it did not.
    """

    name: str
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)
    error: str = ""


def measure(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    seconds: float,
    timeout: float,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[int, list[Result]]:
    """Starts all contestants one after another, then lets them take turns; a failed one drops out.

    Args:
      contestants: contestants with different names.
      rounds: how many turns each has.
      seconds: about how long a turn of the fastest contestant lasts.
      timeout: limit for a start and for a turn, in seconds.
      say: called with progress messages.

    Returns:
      ``(steps, results)``: steps per turn, the same for all, and a result for each contestant.
    """
    results = {contestant.name: Result(contestant.name) for contestant in contestants}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def attempt(name: str, action: Callable[[], Any]) -> Any:
            """Returns the action's result; if it fails, drops the contestant and returns None."""
            try:
                return action()
            except (WorkerError, OSError) as error:
                results[name].error = str(error)
                if name in workers:
                    workers.pop(name).__exit__()
                say(f"{name} failed: {error}")
                return None

        for contestant in contestants:
            name = contestant.name

            def start(contestant: Contestant = contestant, name: str = name) -> dict[str, Any]:
                workers[name] = stack.enter_context(Worker(contestant))
                return workers[name].ready(timeout)

            record = attempt(name, start)
            if record is not None:
                results[name].record = {**record, "environment": contestant.settings}
                say(f"{name}: first step after {record['start_seconds']:.1f} s")

        def turn(name: str, steps: int) -> Turn | None:
            return attempt(name, lambda: workers[name].run(steps, timeout))

        whole = math.lcm(*(results[name].record["steps_per_dispatch"] for name in workers))
        # Only the second round is used: the first may still allocate memory or tune kernels.
        for _ in range(2):
            warm = [turn(name, whole) for name in list(workers)]
        steps = settle([taken.seconds / whole for taken in warm if taken], seconds, whole)
        say(f"{steps} steps a turn")
        for _ in range(rounds):
            for name in list(workers):
                # The first turn is not counted: a step after a pause is slower, and training has no
                # pauses.
                taken = turn(name, whole) and turn(name, steps)
                if taken:
                    results[name].seconds.append(taken.seconds)
                    results[name].cpu_seconds.append(taken.cpu_seconds)
    return steps, list(results.values())


def settle(seconds_per_step: Sequence[float], seconds: float, whole: int = 1) -> int:
    """Returns the steps of a turn of about ``seconds`` for the fastest, a multiple of ``whole``.

    >>> settle([0.1, 0.5], 1.0)
    10
    >>> settle([0.1, 0.5], 1.0, whole=8)
    16
    """
    if not seconds_per_step:
        return whole
    wanted = seconds / min(seconds_per_step)
    return max(1, math.ceil(wanted / whole - 1e-9)) * whole

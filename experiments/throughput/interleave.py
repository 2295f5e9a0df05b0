"""Contestants measured in turn, A B C A B C ...: a noisy machine disturbs all alike."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from worker import Contestant, Turn, Worker, WorkerError


@dataclasses.dataclass
class Result:
    """What became of one contestant.

    Attributes:
      name: the contestant's.
      record: what its worker said when it was ready; empty if it never was.
      seconds: of each round.
      cpu_seconds: of each round, on all cores together.
      error: why it could not go on; empty if it could.
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
    """Starts all, one after another, then has them take turns; one that fails drops out.

    Args:
      contestants: with different names.
      rounds: how many turns each has.
      seconds: what a turn lasts for the fastest of them, about.
      timeout: of a start and of a turn, in seconds.
      say: is told what happens.

    Returns:
      ``(steps, results)``: the steps of a turn, the same for all, and a result for each.
    """
    results = {contestant.name: Result(contestant.name) for contestant in contestants}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def attempt(name: str, action: Callable[[], Any]) -> Any:
            """What the action returns; None if it fails, with the contestant out of the race."""
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
        for _ in range(2):  # The second round counts: the first may still allocate or tune.
            warm = [turn(name, whole) for name in list(workers)]
        steps = settle([taken.seconds / whole for taken in warm if taken], seconds, whole)
        say(f"{steps} steps a turn")
        for _ in range(rounds):
            for name in list(workers):
                # Not counted: training has no pauses, and the first step after one is slower.
                taken = turn(name, whole) and turn(name, steps)
                if taken:
                    results[name].seconds.append(taken.seconds)
                    results[name].cpu_seconds.append(taken.cpu_seconds)
    return steps, list(results.values())


def settle(seconds_per_step: Sequence[float], seconds: float, whole: int = 1) -> int:
    """Steps of a turn that lasts about ``seconds`` for the fastest, a multiple of ``whole``.

    >>> settle([0.1, 0.5], 1.0)
    10
    >>> settle([0.1, 0.5], 1.0, whole=8)
    16
    """
    if not seconds_per_step:
        return whole
    wanted = seconds / min(seconds_per_step)
    return max(1, math.ceil(wanted / whole - 1e-9)) * whole

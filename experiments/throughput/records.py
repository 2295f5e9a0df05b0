"""Functions that all records of this folder share: medians, quartiles, host, command, JSON."""

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns the median and quartiles, interpolated linearly between neighbouring values.

    >>> summary([1.0, 2.0, 3.0, 4.0])
    {'median': 2.5, 'quartiles': [1.75, 3.25]}
    """
    if len(values) == 1:
        return {"median": values[0], "quartiles": [values[0], values[0]]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


def ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Summarises first over second, round by round; a round that only one has is left out.

    Two turns that follow each other see the same machine load, so the ratio within a round is more
    reliable than the ratio of two medians.

    >>> ratio([2.0, 6.0, 9.0], [1.0, 2.0, 3.0])
    {'median': 3.0, 'quartiles': [2.5, 3.0]}
    """
    return summary([one / other for one, other in zip(first, second, strict=False)])


def host() -> dict[str, Any]:
    """Returns the processor, usable cores, memory, system and load of this machine."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def usable_cores() -> int:
    """Returns the number of cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def command() -> str:
    """Returns the command line of this program; absolute paths are cut to their last name."""
    program = Path(sys.argv[0]).resolve()
    if program.is_relative_to(ROOT):
        program = program.relative_to(ROOT)
    arguments = []
    for argument in sys.argv[1:]:
        flag, equals, value = argument.rpartition("=")
        value = Path(value).name if value.startswith("/") else value
        arguments.append(f"{flag}{equals}{value}")
    return shlex.join(["python", str(program), *arguments])


def save(content: dict[str, Any], path: str) -> None:
    """Writes JSON to ``path``, unless it is empty."""
    if path:
        Path(path).write_text(json.dumps(content, indent=1) + "\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligns rows of text in columns, the first column left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def show(values: dict[str, Any], digits: int = 3) -> str:
    """Formats a summary as ``median [quartile, quartile]``."""
    low, high = values["quartiles"]
    return f"{values['median']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _field(path: str, name: str) -> str:
    """Returns the first value of a name in a file of ``name : value`` lines, or an empty string."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")

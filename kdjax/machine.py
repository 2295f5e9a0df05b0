"""The processor that computes a result; on another processor, sums are rounded differently."""

import os
import platform
from pathlib import Path


def processor() -> str:
    """The name of the processor, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # Not Linux.
        pass
    return platform.processor()


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1

"""Measuring kdjax on the machine at hand: speed, start-up and memory against what is possible."""

from kdjax.bench.run import Settings, bench
from kdjax.bench.workload import Job, Workload

__all__ = ["Job", "Settings", "Workload", "bench"]

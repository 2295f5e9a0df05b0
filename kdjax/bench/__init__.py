"""Measures kdjax on this machine: speed, start-up and memory, compared to what is possible."""

from kdjax.bench.layers import LayerSettings, bench_layers, time_network
from kdjax.bench.run import Settings, bench
from kdjax.bench.workload import Job, Workload

__all__ = [
    "Job",
    "LayerSettings",
    "Settings",
    "Workload",
    "bench",
    "bench_layers",
    "time_network",
]

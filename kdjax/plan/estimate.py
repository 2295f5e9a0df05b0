"""Estimates how fast a program may run on a chip, from a simple model with explicit constants.

Every kernel takes as long as the slowest of three parts: its launch, moving its bytes, and its
matrix products. The time of a step is the sum over its kernels. Two sets of constants, one fast and
one slow, give a range. Nothing here is measured on the chip: what a cache keeps, what runs at the
same time, and which algorithm a library picks are not known before the program runs.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from kdjax.plan.program import Kernel, Program
from kdjax.plan.targets import Target

# A kernel for which a TPU's compiler estimates at most this many cycles does almost nothing.
_FEW_CYCLES = 2500
_COPIES = ("copy", "transpose")


@dataclasses.dataclass(frozen=True)
class Constants:
    """One set of assumptions.

    Attributes:
      launch_seconds: the time to launch a kernel, from the end of the previous one.
      collective_seconds: the time of a collective, without moving its bytes.
      bandwidth_share: the share of the datasheet's bandwidth that is reached.
      arithmetic_share: the share of the datasheet's rate of matrix products that is reached, on
        full tiles.
      tile: input and output channels are rounded up to multiples of these numbers, which counts a
        matrix unit's idle lanes.
      compiler_cycles: whether a kernel takes at least the cycles that its compiler estimates.
    """

    launch_seconds: float
    collective_seconds: float
    bandwidth_share: float
    arithmetic_share: float
    tile: tuple[int, int]
    compiler_cycles: bool


MODEL = {
    "gpu": {
        "fast": Constants(1.2e-6, 10e-6, 0.9, 0.6, (1, 1), False),
        "slow": Constants(2.5e-6, 30e-6, 0.6, 0.3, (32, 64), False),
    },
    "tpu": {
        "fast": Constants(0.2e-6, 5e-6, 0.9, 0.6, (1, 1), False),
        "slow": Constants(1.0e-6, 20e-6, 0.6, 0.3, (8, 128), True),
    },
}


def estimate(
    program: Program, target: Target, *, dtype: str, steps: int, batch_size: int
) -> dict[str, Any]:
    """Estimates the range of speeds, and what bounds them.

    Args:
      program: the program of one dispatch, on one device.
      target: the devices.
      dtype: the networks' dtype.
      steps: training steps in a dispatch.
      batch_size: images per step, over all devices.

    Returns:
      ``step_seconds`` and ``images_per_second``, each with ``low`` and ``high``; ``shares``, the
      shares of a step's time taken by ``launches``, ``memory``, ``arithmetic`` and ``collectives``,
      as the mean over both sets of constants; and ``bound_by``, the name of the largest share.
    """
    model = MODEL[target.chip.platform]
    seconds, shares = {}, dict.fromkeys(("launches", "memory", "arithmetic", "collectives"), 0.0)
    for name, constants in model.items():
        parts = dict.fromkeys(shares, 0.0)
        for kernel in program.kernels:
            what, each = _slowest(kernel, target, constants, dtype)
            parts[what] += kernel.times * each
        seconds[name] = sum(parts.values()) / steps
        for what, part in parts.items():
            shares[what] += part / sum(parts.values()) / len(model)
    return {
        "step_seconds": {"low": seconds["fast"], "high": seconds["slow"]},
        "images_per_second": {
            "low": batch_size / seconds["slow"],
            "high": batch_size / seconds["fast"],
        },
        "bound_by": max(shares, key=lambda what: shares[what]),
        "shares": shares,
    }


def _slowest(kernel: Kernel, target: Target, constants: Constants, dtype: str) -> tuple[str, float]:
    """Returns the slowest part of a kernel, and its seconds."""
    chip = target.chip
    if kernel.kind == "collective":
        sent = _sent(kernel.collective, target.devices) * kernel.bytes
        return "collectives", constants.collective_seconds + sent / chip.link
    rate = chip.flops[dtype] * constants.arithmetic_share
    operations = sum(_on_tiles(product, constants.tile) for product in kernel.products)
    times = {
        "launches": constants.launch_seconds,
        "memory": kernel.bytes / (chip.bandwidth * constants.bandwidth_share),
        "arithmetic": operations / rate,
    }
    if constants.compiler_cycles and chip.clock:
        part = "launches" if kernel.cycles <= _FEW_CYCLES else "arithmetic"
        times[part] = max(times[part], kernel.cycles / chip.clock)
    what = max(times, key=lambda name: times[name])
    return what, times[what]


def _sent(collective: str, devices: int) -> float:
    """Returns how many bytes a device of a ring sends for each byte it gives to a collective."""
    others = devices - 1
    return {
        "all-reduce": 2 * others / devices,  # A share is summed around the ring, then passed on.
        "reduce-scatter": others / devices,
        "all-to-all": others / 2,  # On average a share passes through half of the ring.
        "all-gather": others,  # What every device gives goes through all.
        "collective-permute": 1,
    }[collective]


def _on_tiles(product: tuple[float, int, int], tile: tuple[int, int]) -> float:
    operations, *channels = product
    for count, size in zip(channels, tile, strict=True):
        operations *= -(-count // size) * size / count
    return operations


def totals(program: Program, steps: int) -> dict[str, Any]:
    """Counts what a step launches, moves and computes on one device.

    Args:
      program: the program of one dispatch.
      steps: training steps in a dispatch.

    Returns:
      ``launches``, ``bytes``, ``operations`` (of matrix products), ``cycles`` (the compiler's
      estimate; 0 if there is none), ``launches_by_kind``, ``collectives``, ``copies`` and
      ``uncounted_loops``. ``copies`` are the launches and bytes of copies and transposes, in total
      and by source line, most bytes first.
    """
    kernels = program.kernels
    kinds: dict[str, float] = {}
    for kernel in kernels:
        kinds[kernel.kind] = kinds.get(kernel.kind, 0.0) + kernel.times / steps
    copied: dict[str, dict[str, float]] = {}
    for kernel in kernels:
        if kernel.kind in _COPIES:
            entry = copied.setdefault(kernel.source, {"launches": 0.0, "bytes": 0.0})
            entry["launches"] += kernel.times / steps
            entry["bytes"] += kernel.times * kernel.bytes / steps
    heaviest = sorted(copied, key=lambda source: (-copied[source]["bytes"], source))
    collectives = [kernel for kernel in kernels if kernel.kind == "collective"]
    return {
        "launches": _sum(kernels, steps, lambda kernel: 1.0),
        "bytes": _sum(kernels, steps, lambda kernel: kernel.bytes),
        "operations": _sum(kernels, steps, lambda kernel: kernel.operations),
        "cycles": _sum(kernels, steps, lambda kernel: kernel.cycles),
        "launches_by_kind": kinds,
        "collectives": {
            "launches": _sum(collectives, steps, lambda kernel: 1.0),
            "bytes": _sum(collectives, steps, lambda kernel: kernel.bytes),
        },
        "copies": {
            "launches": sum(entry["launches"] for entry in copied.values()),
            "bytes": sum(entry["bytes"] for entry in copied.values()),
            "by_line": [{"source": source, **copied[source]} for source in heaviest],
        },
        "uncounted_loops": program.uncounted_loops,
    }


def _sum(kernels: Iterable[Kernel], steps: int, of: Any) -> float:
    return sum(kernel.times * of(kernel) for kernel in kernels) / steps

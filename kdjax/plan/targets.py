"""Accelerators by name: their datasheets' numbers, and how to describe them to a compiler."""

import dataclasses
import difflib
import importlib.util
import math
import re
from collections.abc import Mapping

_GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, by its datasheet.

    Attributes:
      name: its name on the command line.
      title: its maker's name for it.
      platform: ``gpu`` or ``tpu``.
      memory: bytes of memory.
      bandwidth: bytes/s to and from that memory.
      flops: operations/s of dense matrix products, by dtype of the networks. ``float32`` means what
        JAX does with float32 by default: TF32 on these GPUs, one pass of bfloat16 on TPUs.
      link: bytes/s to the other devices of the host, in each direction.
      usable: the share of the memory that JAX takes by default.
      source: where the numbers come from.
      clock: cycles/s, if the chip's compiler estimates cycles; else 0.
      compiler: what tells the compiler which chip it is. For a GPU, these are the fields of XLA's
        ``GpuTargetConfigProto`` that differ between chips; for a TPU, its topology options.
    """

    name: str
    title: str
    platform: str
    memory: float
    bandwidth: float
    flops: Mapping[str, float]
    link: float
    usable: float
    source: str
    clock: float = 0.0
    compiler: Mapping[str, object] = dataclasses.field(default_factory=dict)


def _gpu(
    name: str, title: str, memory: int, bandwidth: float, design: Mapping[str, object]
) -> Chip:
    return Chip(
        name,
        title,
        "gpu",
        memory,
        bandwidth,
        _RATES[name.partition("-")[0]],
        _LINKS[name.partition("-")[0]],
        0.75,  # The default of XLA_PYTHON_CLIENT_MEM_FRACTION.
        "NVIDIA's datasheet (dense rates); memory and bandwidth as in XLA's own table",
        compiler={**design, "memory_bandwidth": int(bandwidth), "device_memory_size": memory},
    )


def _tpu(name: str, peak: float, memory: float, bandwidth: float, link: float) -> Chip:
    return Chip(
        name,
        f"TPU {name}",
        "tpu",
        memory,
        bandwidth,
        {"bfloat16": peak, "float32": peak},
        link,
        1.0,
        "Google Cloud's page of the version; clock = peak / operations a cycle of its matrix units",
        clock=_CLOCKS[name],
        # Both cores of a v4 chip work as one, as on Google Cloud.
        compiler={"chip_config_name": "megacore"} if name == "v4" else {},
    )


_HOPPER = {
    "cuda_compute_capability": 9,
    "core_count": 132,
    "fpus_per_core": 128,
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
}
_AMPERE = {
    "cuda_compute_capability": 8,
    "core_count": 108,
    "fpus_per_core": 64,
    "shared_memory_per_core": 167936,
    "shared_memory_per_block_optin": 166912,
    "l2_cache_size": 41943040,
    "clock_rate_ghz": 1.41,
}
_RATES = {
    "h200": {"bfloat16": 989e12, "float32": 494e12},
    "h100": {"bfloat16": 989e12, "float32": 494e12},
    "a100": {"bfloat16": 312e12, "float32": 156e12},
}
_LINKS = {"h200": 450e9, "h100": 450e9, "a100": 300e9}  # NVLink
_CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}

CHIPS = {
    chip.name: chip
    for chip in (
        _gpu("h200", "NVIDIA H200", 151_397_597_184, 4.8e12, _HOPPER),
        _gpu("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 3.35232e12, _HOPPER),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", 85_100_068_864, 2.03904e12, _AMPERE),
        _gpu("a100-40", "NVIDIA A100-SXM4-40GB", 42_331_013_120, 1.5552e12, _AMPERE),
        _tpu("v4", 275e12, 32 * _GIB, 1228e9, 300e9),
        _tpu("v5e", 197e12, 16 * _GIB, 819e9, 200e9),
        _tpu("v5p", 459e12, 95 * _GIB, 2765e9, 600e9),
        _tpu("v6e", 918e12, 32 * _GIB, 1640e9, 400e9),
    )
}

# The topologies that one host of each chip can have.
_HOSTS = {
    "v4": ("2x2x1",),
    "v5e": ("2x2", "2x4"),
    "v5p": ("2x2x1",),
    "v6e": ("2x2", "2x4"),
}
_MOST_GPUS = 8
_PACKAGES = {
    "gpu": ("jax_cuda12_plugin", 'pip install ".[cuda]" in a checkout of kdjax'),
    "tpu": ("libtpu", 'pip install ".[tpu]" in a checkout of kdjax'),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices of one host.

    Attributes:
      name: the name that was asked for.
      chip: the kind of device.
      devices: the number of devices.
      topology: for a TPU, such as ``2x2``: that of the smallest host with so many devices.
    """

    name: str
    chip: Chip
    devices: int
    topology: str = ""


def parse(name: str) -> Target:
    """Parses a target: a chip, and after a colon how many of them: ``a100:4``, ``v5e:2x2``.

    Raises:
      ValueError: if there is no such target; the message lists what is allowed.
    """
    chip_name, _, count = name.strip().lower().partition(":")
    if chip_name not in CHIPS:
        near = difflib.get_close_matches(chip_name, CHIPS, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"--target is {name!r}{meant}: allowed are {', '.join(CHIPS)}")
    chip = CHIPS[chip_name]
    if chip.platform == "gpu":
        if re.fullmatch(r"[1-9]\d*|", count) and int(count or 1) <= _MOST_GPUS:
            return Target(name, chip, int(count or 1))
        raise ValueError(
            f"--target is {name!r}: after {chip_name}: comes the number of GPUs, 1 to {_MOST_GPUS}"
        )
    hosts = _HOSTS[chip_name]
    if count in ("", "1"):
        return Target(name, chip, 1, hosts[0])
    if count in hosts:
        return Target(name, chip, math.prod(map(int, count.split("x"))), count)
    raise ValueError(
        f"--target is {name!r}: allowed are {chip_name} (one chip) and, of one host, "
        + ", ".join(f"{chip_name}:{host}" for host in hosts)
    )


def check_compiler(target: Target) -> None:
    """Checks that the package with the target's compiler is installed.

    Raises:
      ValueError: if it is not; the message says how to install it.
    """
    module, command = _PACKAGES[target.chip.platform]
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"--target is {target.name!r}: its compiler is not installed: {command}, best in a "
            "virtual environment of its own; the device itself is not needed"
        )

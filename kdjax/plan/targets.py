"""Accelerators by name: what a datasheet says of each, and how a compiler is told of it."""

import dataclasses
import difflib
import importlib.util
import math
import re
from collections.abc import Mapping

_GB = 1e9
_GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, by its datasheet.

    Attributes:
      name: on the command line.
      title: as its maker calls it.
      platform: ``gpu`` or ``tpu``.
      memory: bytes.
      bandwidth: bytes/s to that memory.
      flops: operations/s of matrix products, dense, by dtype of the networks. float32 stands for
        what JAX does by default: TF32 on these GPUs, one pass of bfloat16 on TPUs.
      link: bytes/s to the other devices of the host, in each direction.
      source: where the numbers are from.
      clock: cycles/s, of chips whose compiler estimates cycles.
      compiler: what tells the compiler which chip it is: of a GPU the fields of XLA's
        ``GpuTargetConfigProto`` that differ between chips; of a TPU its topology options.
    """

    name: str
    title: str
    platform: str
    memory: float
    bandwidth: float
    flops: Mapping[str, float]
    link: float
    source: str
    clock: float = 0.0
    compiler: Mapping[str, object] = dataclasses.field(default_factory=dict)


def _gpu(name: str, title: str, teraflops: tuple[float, float], link: float, **fields) -> Chip:
    peaks = {"bfloat16": teraflops[0] * 1e12, "float32": teraflops[1] * 1e12}
    return Chip(
        name,
        title,
        "gpu",
        fields["device_memory_size"],
        fields["memory_bandwidth"],
        peaks,
        link * _GB,
        "NVIDIA's datasheet (dense rates); memory and bandwidth as XLA's own table has them",
        compiler=fields,
    )


def _tpu(name: str, teraflops: float, memory: int, bandwidth: float, **fields) -> Chip:
    return Chip(
        name,
        f"TPU {name}",
        "tpu",
        memory * _GIB,
        bandwidth * _GB,
        {"bfloat16": teraflops * 1e12, "float32": teraflops * 1e12},
        fields["link"] * _GB,
        "Google Cloud's page of the version; clock = peak / operations a cycle of its matrix units",
        fields["clock"] * 1e9,
        fields["compiler"],
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

CHIPS = {
    chip.name: chip
    for chip in (
        _gpu(
            *("h200", "NVIDIA H200", (989, 494), 450),
            memory_bandwidth=4.8e12,
            device_memory_size=151397597184,
            **_HOPPER,
        ),
        _gpu(
            *("h100", "NVIDIA H100 80GB HBM3", (989, 494), 450),
            memory_bandwidth=3.35232e12,
            device_memory_size=84942979072,
            **_HOPPER,
        ),
        _gpu(
            *("a100", "NVIDIA A100-SXM4-80GB", (312, 156), 300),
            memory_bandwidth=2.03904e12,
            device_memory_size=85100068864,
            **_AMPERE,
        ),
        _gpu(
            *("a100-40", "NVIDIA A100-SXM4-40GB", (312, 156), 300),
            memory_bandwidth=1.5552e12,
            device_memory_size=42331013120,
            **_AMPERE,
        ),
        _tpu("v4", 275, 32, 1228, link=300, clock=1.05, compiler={"chip_config_name": "megacore"}),
        _tpu("v5e", 197, 16, 819, link=200, clock=1.5, compiler={}),
        _tpu("v5p", 459, 95, 2765, link=600, clock=1.75, compiler={}),
        _tpu("v6e", 918, 32, 1640, link=400, clock=1.75, compiler={}),
    )
}

# One host of each: chips side by side, as topologies are written.
_HOSTS = {
    "v4": ("2x2x1",),
    "v5e": ("2x2", "2x4"),
    "v5p": ("2x2x1",),
    "v6e": ("2x2", "2x4"),
}
_MOST_GPUS = 8
_PACKAGES = {
    "gpu": ("jax_cuda12_plugin", 'pip install "jax[cuda12]"'),
    "tpu": ("libtpu", 'pip install "jax[tpu]"'),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices of one host.

    Attributes:
      name: as it was asked for.
      chip: of which kind.
      devices: how many.
      topology: of a TPU, such as ``2x2``: of the smallest host that has so many.
    """

    name: str
    chip: Chip
    devices: int
    topology: str = ""


def parse(name: str) -> Target:
    """The target of a name: a chip, and after a colon how many: ``a100:4``, ``v5e:2x2``.

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
            f"--target is {name!r}: after {chip_name}: comes the number of GPUs, "
            f"1 to {_MOST_GPUS}"
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

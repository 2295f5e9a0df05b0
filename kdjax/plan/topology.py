"""The devices of a target, as JAX describes them to its compilers."""

from collections.abc import Mapping
from typing import Any

import jax

from kdjax.plan.targets import Chip, Target

# The fields that all these GPUs have in common.
_COMMON = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}
# Without a device, algorithms cannot be tried out, so cuDNN's default ones are used.
_GPU_FLAGS = "--xla_gpu_autotune_level=0"
_TPU_ACCELERATORS = {"v4": "v4-8", "v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4"}


def environment(target: Target, given: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables of a process that compiles for a target.

    Args:
      target: the target to compile for.
      given: the variables of this process. XLA's flags for CPUs are left out, because the other
        compilers may not know them.
    """
    flags = [flag for flag in given.get("XLA_FLAGS", "").split() if "xla_cpu" not in flag]
    flags = [flag for flag in flags if "xla_force_host" not in flag]
    changed = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if target.chip.platform == "gpu":
        flags = [flag for flag in flags if "autotune_level" not in flag]
        changed |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": ""}
        changed |= {"XLA_FLAGS": " ".join([*flags, _GPU_FLAGS])}
    else:
        changed |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": _TPU_ACCELERATORS[target.chip.name],
            "TPU_WORKER_ID": "0",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": " ".join(flags),
        }
    return {**given, **changed}


def devices(target: Target) -> tuple[jax.Device, ...]:
    """Returns the target's devices; the process needs the variables of :func:`environment`."""
    from jax.experimental import topologies

    if target.chip.platform == "tpu":
        name = f"{target.chip.name}:{target.topology}"
        options: dict[str, Any] = dict(target.chip.compiler)
        if target.devices == 8:
            options["chips_per_host_bounds"] = (2, 4, 1)
        topology = topologies.get_topology_desc(name, platform="tpu", **options)
    else:
        import jax_plugins.xla_cuda12  # noqa: F401  # registers the platform

        topology = topologies.get_topology_desc(
            "",
            platform="cuda",
            target_config=target_config(target.chip),
            topology=f"1x1x{target.devices}",
        )
    # From here on nothing else may ask for the accelerator: host arrays belong to the CPU.
    jax.config.update("jax_platforms", "cpu")
    return tuple(topology.devices[: target.devices])


def target_config(chip: Chip) -> str:
    """XLA's ``GpuTargetConfigProto`` of a GPU, as text."""
    fields = {**_COMMON, **chip.compiler}
    capability = fields.pop("cuda_compute_capability")
    lines = [f"{name}: {value}" for name, value in fields.items()]
    lines += [f"cuda_compute_capability {{ major: {capability} }}"]
    return (
        f"gpu_device_info {{ {' '.join(lines)} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } '
        f'device_description_str: "{chip.title}"'
    )

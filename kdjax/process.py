"""Settings that must be there before JAX, or even the process, starts.

XLA's defaults for CPUs are not the fastest for small convolutions. Where no accelerator is
installed, the command `kdjax` sets what was measured to pay (experiments/throughput), and leaves
alone what the user has set. ``KDJAX_TUNE=0`` switches all of it off; imported as a library, kdjax
changes nothing.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence

# Why each pays is measured in experiments/throughput.
_CPU_FLAGS = {
    # Eigen's convolutions are faster than YNN's at these shapes.
    "--xla_cpu_experimental_ynn_fusion_type": "-individual_convolution",
    # Kernels compile in two thirds of the time and are no slower.
    "--xla_backend_optimization_level": "1",
}
# A step's temporaries are mapped anew each time: with large pages, 500 times fewer page faults.
_GLIBC = "glibc.malloc.hugetlb=1"


def tuned(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add or change for training on a CPU; none where they would not apply.

    Args:
      environment: of the process, left as it is.

    Returns:
      New values of ``XLA_FLAGS`` and ``GLIBC_TUNABLES``.
    """
    platforms = environment.get("JAX_PLATFORMS") or environment.get("JAX_PLATFORM_NAME", "")
    if environment.get("KDJAX_TUNE", "1") == "0":
        return {}
    if platforms != "cpu" if platforms else accelerator_installed():
        return {}
    changed = {}
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # Others may not know the flags.
        given = environment.get("XLA_FLAGS", "")
        added = [f"{flag}={value}" for flag, value in _CPU_FLAGS.items() if flag not in given]
        if added:
            changed["XLA_FLAGS"] = " ".join([given, *added]).strip()
    tunables = environment.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        changed["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, _GLIBC]))
    return changed


def accelerator_installed() -> bool:
    """Whether a JAX plug-in for a GPU or TPU is installed, without starting JAX."""
    names = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    if any(importlib.util.find_spec(name) for name in names):
        return True
    return bool(importlib.metadata.entry_points(group="jax_plugins"))


def restart_tuned(arguments: Sequence[str]) -> None:
    """Starts this program anew, in the same process, if its environment can be tuned.

    What malloc does is settled before Python runs, so nothing less than a new start will do.

    Args:
      arguments: of the interpreter, as :data:`sys.orig_argv` has them.
    """
    changed = tuned(os.environ)
    if changed:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *arguments[1:]], {**os.environ, **changed})

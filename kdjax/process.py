"""Process settings that must be made before JAX starts, and the user's cache directory.

XLA's defaults for CPUs are not the fastest for small convolutions. If no accelerator is installed,
the command `kdjax` makes the settings that were measured to be faster (experiments/throughput). It
never changes what the user has set. ``KDJAX_TUNE=0`` switches all of this off. A program that
imports kdjax keeps its own settings.
"""

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# experiments/throughput has the measurements that show why each flag is faster.
_NEW_FLAGS = {
    # Eigen's convolutions are faster than YNN's at these shapes.
    "--xla_cpu_experimental_ynn_fusion_type": "-individual_convolution",
    # Compiles faster.
    "--xla_backend_optimization_level": "1",
}
# Release of jaxlib -> flags. An unknown flag ends the process, so only tried releases have flags.
_CPU_FLAGS = {
    # The older emitters compile faster, and their kernels are a little faster too.
    "0.10": {**_NEW_FLAGS, "--xla_cpu_use_fusion_emitters": "false"},
    "0.12": _NEW_FLAGS,
}
# Compiling takes longer than a short run, so compiled programs are kept.
_CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
# Each step maps its temporary arrays anew. Huge pages make page faults 500 times fewer.
_GLIBC = "glibc.malloc.hugetlb=1"


def cache_directory() -> Path:
    """``$KDJAX_CACHE``, or ``kdjax`` in the user's cache directory.

    It is in the directory for temporary files if the user has no home.
    """
    if explicit := os.environ.get("KDJAX_CACHE"):
        return Path(os.path.expanduser(explicit))
    shared = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if shared.startswith("~"):
        return Path(tempfile.gettempdir()) / f"kdjax-{os.getuid()}"
    return Path(shared) / "kdjax"


def tuned(environment: Mapping[str, str], compilations: Path) -> dict[str, str]:
    """The environment variables to add or change before training.

    Args:
      environment: the environment of the process; it is not changed here.
      compilations: the directory that compiled programs are kept in.

    Returns:
      New values by name; empty if there is nothing to change.
    """
    if environment.get("KDJAX_TUNE", "1") == "0":
        return {}
    changed = {}
    if "JAX_COMPILATION_CACHE_DIR" not in environment:
        changed = {"JAX_COMPILATION_CACHE_DIR": str(compilations), **_CACHE}
    platforms = environment.get("JAX_PLATFORMS") or environment.get("JAX_PLATFORM_NAME", "")
    on_cpu = platforms == "cpu" if platforms else not accelerator_installed()
    return changed | (_tuned_for_cpu(environment) if on_cpu else {})


def _tuned_for_cpu(environment: Mapping[str, str]) -> dict[str, str]:
    changed = {}
    given = environment.get("XLA_FLAGS", "")
    added = [f"{flag}={value}" for flag, value in _flags().items() if flag not in given]
    if added:
        changed["XLA_FLAGS"] = " ".join([given, *added]).strip()
    tunables = environment.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        changed["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, _GLIBC]))
    return changed


def _flags() -> Mapping[str, str]:
    """XLA's flags for the jaxlib that is installed."""
    release = ".".join(importlib.metadata.version("jaxlib").split(".")[:2])
    return _CPU_FLAGS.get(release, {})


def accelerator_installed() -> bool:
    """Whether a JAX plug-in for a GPU or TPU is installed, without starting JAX."""
    names = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    if any(importlib.util.find_spec(name) for name in names):
        return True
    return bool(importlib.metadata.entry_points(group="jax_plugins"))


def platform_problem() -> str:
    """What is wrong with ``JAX_PLATFORMS``, in one line; empty if JAX can use what it names."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if not wanted:
        return ""
    import jax

    try:
        jax.devices()
    except Exception as error:  # JAX raises many types here, some without text.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        extra = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}.get(wanted, "")
        install = f', or install kdjax with pip install ".[{extra}]"' if extra else ""
        return (
            f"JAX_PLATFORMS is {wanted!r}, and JAX cannot use it here ({reason}): unset it{install}"
        )
    return ""


def restart_tuned(arguments: Sequence[str], compilations: Path) -> None:
    """Restarts this program, in the same process, if its environment can be tuned.

    malloc reads its settings before Python runs, so setting variables in a running program is not
    enough.

    Args:
      arguments: the arguments of the interpreter, as in :data:`sys.orig_argv`.
      compilations: the directory that compiled programs are kept in.
    """
    changed = tuned(os.environ, compilations)
    if changed:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *arguments[1:]], {**os.environ, **changed})

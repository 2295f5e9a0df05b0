"""Settings of the whole test session, and small experiments for it."""

import gc
import importlib.metadata
import os
import shutil
import tempfile

# This has to be set before jax starts: eight virtual devices for the multi-device tests, and enough
# threads that their collectives do not wait for each other for ever on a machine with few cores.
_FLAGS = ["--xla_force_host_platform_device_count=8"]
# The tests run small programs for a few steps: compiling them takes longer than running them.
_FLAGS += ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = os.environ.get("KDJAX_TEST_PLATFORM", "cpu")

# Many tests train the same small networks, so all test processes share one cache of compiled
# programs. The process that starts the others creates the directory and removes it.
_OWN_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if _OWN_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kdjax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# Half of the time is spent on tracing, which creates millions of small objects. Searching them for
# cycles less often saves time.
gc.set_threshold(50_000, 20, 20)

import numpy as np
import pytest
from small import small_fields

from kdjax import config as configuration

# Files that take minutes. They start first: if they started last, one of two processes would idle.
_LONG = (
    "test_search_pipeline.py",
    "test_processes.py",
    "test_term_modules.py",
    "test_search_families.py",
    "test_fault_harness.py",
    "test_step.py",
    "test_parallel.py",
    "test_loop.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(_LONG)))


def pytest_unconfigure():
    if _OWN_CACHE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Caches decoded images in a directory of the test session."""
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory):
    """The path of a set of four learnable classes: 90 training and 30 test images of 8 x 8."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (4, 8, 8))

    def split(size):
        labels = np.arange(size) % 4
        return (patterns[labels] + rng.integers(0, 56, (size, 8, 8))).astype(np.uint8), labels

    train_images, train_labels = split(90)
    test_images, test_labels = split(30)
    path = tmp_path_factory.mktemp("npz") / "small.npz"
    np.savez(
        path,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )
    return path


@pytest.fixture
def small_config(small_npz):
    """Two students of a narrow ResNet8 on the small set, on one device; a run takes seconds."""
    config = configuration.default()
    config.update_from_flattened_dict(
        {
            **small_fields(small_npz),
            "method": "ensemble",
            "student_scales": (1.0, 0.5),
            "epochs": 3,
            "weight_ramp.feature": "constant",
        }
    )
    return config

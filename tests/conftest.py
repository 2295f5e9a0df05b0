"""Settings of the whole test session."""

import os

# Before jax starts: eight virtual devices for the multi-device tests, and enough threads that
# their collectives cannot wait for each other on a machine with few cores.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = os.environ.get("KDJAX_TEST_PLATFORM", "cpu")

import pytest


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Decoded images are cached in a directory of the test session."""
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

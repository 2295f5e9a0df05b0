"""What the tests of whole tasks share."""

import os
import signal

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from small import small_fields

from kdjax import config as configuration
from kdjax.train.run.run import Run


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """For tests that compile the same stages again and again: once is enough."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield settings["jax_compilation_cache_dir"]
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function of a list of ``(run, step)``, which sends this process a signal at each in turn.

    The signal comes once the step's numbers have been read, and its entry leaves the list.
    """
    original = Run._read

    def interrupt(stops, by=signal.SIGTERM):
        def read_and_stop(self, window, pending, started):
            now = original(self, window, pending, started)
            if stops and (self.name, pending[1]) == stops[0]:
                stops.pop(0)
                os.kill(os.getpid(), by)
            return now

        monkeypatch.setattr(Run, "_read", read_and_stop)

    return interrupt


@pytest.fixture(scope="session")
def search_of(small_npz):
    """A function of changes, ``a__b`` for a.b: a search of a narrow ResNet8 on the small set."""

    def config_of(**changes):
        config = configuration.search_default()
        config.update_from_flattened_dict(
            {
                **small_fields(small_npz),
                "teacher.epochs": 2,
                "search.epochs": 3,
                "distil.epochs": 2,
                **{name.replace("__", "."): value for name, value in changes.items()},
            }
        )
        return config

    return config_of

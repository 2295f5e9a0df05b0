"""Fixtures that the tests of whole tasks share."""

import os
import signal

import pytest
from small import small_fields

from kdjax import config as configuration
from kdjax.train.run.run import Run


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function that sends this process a signal at each ``(run, step)`` of a list in turn.

    The signal is sent after the step's numbers have been read. The entry is then removed from the
    list.
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
    """A function that configures a search of a narrow ResNet8 on the small set.

    Its arguments are changes of the configuration; ``a__b`` stands for a.b.
    """

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

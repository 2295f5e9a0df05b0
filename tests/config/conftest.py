"""Configurations of `kdjax train` and `kdjax search` with other values than the defaults."""

import pytest

from kdjax import config as configuration


def _with(config, changes):
    with config.unlocked():
        for name, value in changes.items():
            *parents, leaf = name.split("__")
            node = config
            for parent in parents:
                node = node[parent]
            if leaf in node:
                del node[leaf]  # A ConfigDict would convert the value, or refuse its type.
            node[leaf] = value
    return config


@pytest.fixture(scope="session")
def changed():
    """A function: the default with other values of any type; ``a__b`` stands for a.b."""
    return lambda **changes: _with(configuration.default(), changes)


@pytest.fixture(scope="session")
def changed_search():
    """The same function for the default of a search."""
    return lambda **changes: _with(configuration.search_default(), changes)

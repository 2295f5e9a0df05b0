"""Examples in docstrings hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "kdjax.losses.attention",
        "kdjax.losses.ensemble",
        "kdjax.losses.features",
        "kdjax.losses.hard_labels",
        "kdjax.losses.review",
        "kdjax.losses.soft_targets",
        "kdjax.losses.standardize",
        "kdjax.losses.vid",
        "kdjax.models.registry",
        "kdjax.widths",
    ],
)
def test_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0

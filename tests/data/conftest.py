"""Fixtures that the tests of several kinds of sources share."""

import pytest

from kdjax.data import images


@pytest.fixture
def forbid_decoding(monkeypatch):
    """A function: after its call the test fails if an image is decoded."""

    def decode(*arguments):
        raise AssertionError("an image was decoded again")

    return lambda: monkeypatch.setattr(images, "decode", decode)

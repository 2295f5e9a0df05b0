"""The channels to keep, as a user names them."""

import numpy as np
import pytest

from kdjax import models, tracing

NAME = "stage3.block1.conv1"


@pytest.fixture(scope="module")
def traced():
    architecture = models.create("resnet8", 10)
    return tracing.trace_architecture(architecture, (8, 8, 3))


def test_a_mask_and_its_indices_are_the_same(traced):
    mask = np.arange(64) % 2 == 0
    by_mask, by_index = (
        tracing.alive_from_kept(traced, {NAME: given}) for given in (mask, np.flatnonzero(mask))
    )
    np.testing.assert_array_equal(by_mask, by_index)
    np.testing.assert_array_equal(by_mask[traced.widths[NAME]], mask)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "is empty: at least one of 64 channels must stay"),
        ([99], "names channel 99: there are 0 to 63"),
        ([1.7], "has dtype float64: expected indices"),
        ([-1, 3], "names channel -1: there are 0 to 63"),
        (np.ones(3, bool), r"has shape \(3,\): expected one for each of 64 channels"),
    ],
)
def test_channels_that_are_not_there_are_refused(traced, given, message):
    with pytest.raises(ValueError, match=message):
        tracing.alive_from_kept(traced, {NAME: given})


def test_an_unknown_width_is_refused(traced):
    with pytest.raises(ValueError, match="kept names 'stage9': the widths are stem"):
        tracing.alive_from_kept(traced, {"stage9": [0]})

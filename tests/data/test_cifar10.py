"""The real CIFAR-10, if it is prepared: as published, and the same in both memories."""

import os

import numpy as np
import pytest

from kdjax import data
from kdjax.data.dataset import channel_statistics
from kdjax.data.division import SourceOptions

pytestmark = pytest.mark.skipif(
    not os.environ.get("KDJAX_TEST_DATA"), reason="KDJAX_TEST_DATA is not set"
)


@pytest.fixture(scope="module")
def options():
    return SourceOptions(data_dir=os.environ["KDJAX_TEST_DATA"], split_seed=2)


@pytest.fixture(scope="module")
def held(options, tmp_path_factory):
    """The whole set in memory. Decoding its 60,000 images takes long, so it is done once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return data.load("cifar10", options)


def test_the_whole_of_cifar10(held):
    assert (len(held.train), len(held.validation), len(held.test)) == (45_000, 5_000, 10_000)
    assert held.image_shape == (32, 32, 3)
    assert held.class_names[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(held.test.labels).tolist() == [1000] * 10
    assert np.bincount(held.validation.labels).tolist() == [500] * 10
    mean, std = channel_statistics(np.concatenate([held.train.images, held.validation.images]))
    np.testing.assert_allclose(mean, held.mean, atol=2e-3)
    np.testing.assert_allclose(std, held.std, atol=4e-3)


def test_cifar10_is_the_same_in_both(held, options):
    streamed = data.stream("cifar10", options)
    assert streamed.sizes == held.sizes and streamed.image_shape == held.image_shape
    assert (streamed.mean, streamed.std) == (held.mean, held.std)
    first = 0
    for images, labels, mask, _ in streamed.evaluation_batches("validation", batch_size=500):
        assert mask.all()
        place = slice(first, first + len(labels))
        np.testing.assert_array_equal(images, held.validation.images[place])
        np.testing.assert_array_equal(labels, held.validation.labels[place])
        first += len(labels)
    assert first == len(held.validation)

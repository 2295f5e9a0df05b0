"""Statistics of a set, and the batches that are made from it on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import data
from kdjax.data import batches
from kdjax.data.dataset import channel_statistics


def test_statistics_equal_numpy():
    pixels = np.random.default_rng(5).integers(0, 256, (7, 9, 8, 3), np.uint8)
    mean, std = channel_statistics(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_does_not_divide_by_zero():
    assert channel_statistics(np.full((2, 8, 8, 1), 51, np.uint8)) == ((0.2,), (1e-3,))


# Batches


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_crop_and_flip_equals_padding_cropping_and_flipping(pad):
    generator = np.random.default_rng(6)
    pixels = generator.integers(1, 256, (10, 9, 8, 3), np.uint8)
    indices = generator.integers(0, 10, 32)
    offsets = generator.integers(-pad, pad + 1, (32, 2))
    flips = generator.random(32) < 0.5
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    expected = []
    for index, (top, left), flip in zip(indices, offsets, flips, strict=True):
        crop = padded[index, pad + top : pad + top + 9, pad + left : pad + left + 8]
        expected.append(crop[:, ::-1] if flip else crop)
    actual = batches.crop_and_flip(pixels[indices], offsets, flips)
    assert actual.dtype == jnp.uint8
    np.testing.assert_array_equal(actual, np.stack(expected))


def numbered(size=22, extra=5):
    """Returns a set in which the first pixel and the label of an example are its number."""
    pixels = np.zeros((size + extra, 8, 8, 1), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(size + extra)
    return on_device(pixels, np.arange(size + extra))


def on_device(pixels, labels):
    rows = pixels.reshape(len(pixels), -1)
    return batches.DeviceData(jnp.asarray(rows), jnp.asarray(labels, jnp.int32))


def plan(**changes):
    fields = {"train_size": 22, "batch_size": 8, "devices": 1, "image_shape": (8, 8, 1)}
    fields |= {"mean": (0.0,), "std": (1 / 255,)}
    return batches.Batches(**{**fields, **changes})


KEY = jax.random.key(3)


@pytest.mark.parametrize("epoch", [0, 4])
def test_an_epoch_holds_each_training_example_once(epoch):
    cut = plan()
    assert cut.steps_per_epoch == 3
    order = cut.epoch_order(KEY, epoch)
    seen, masks = [], []
    for step in range(3 * epoch, 3 * epoch + 3):
        batch = cut.train_batch(numbered(), order, KEY, step, 0)
        np.testing.assert_allclose(batch.images[:, 0, 0, 0], batch.labels, atol=1e-4)
        real = np.asarray(batch.mask)
        np.testing.assert_array_equal(batch.indices[real], batch.labels[real])
        seen += np.asarray(batch.labels)[real].tolist()
        masks.append(np.asarray(batch.mask).tolist())
    assert sorted(seen) == list(range(22))
    assert seen != list(range(22))
    assert masks == [[True] * 8, [True] * 8, [True] * 6 + [False] * 2]


def test_epochs_differ_in_order():
    cut = plan()
    orders = [np.asarray(cut.epoch_order(KEY, epoch)) for epoch in range(3)]
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[2], cut.epoch_order(KEY, 2))


@pytest.mark.parametrize("step", [1, 5])
def test_devices_share_the_batch_that_one_device_would_take(step):
    changes = {"crop_padding": 2, "flip": True}
    order = plan().epoch_order(KEY, 1)
    whole = plan(**changes).train_batch(numbered(), order, KEY, step, 0)
    shares = [
        plan(devices=4, **changes).train_batch(numbered(), order, KEY, step, device)
        for device in range(4)
    ]
    assert {share.labels.shape for share in shares} == {(2,)}
    # Examples are dealt in turn: device d has positions d, d + 4, ...
    for whole_field, share_fields in zip(whole, zip(*shares, strict=True), strict=True):
        dealt = np.stack(share_fields, axis=1).reshape(whole_field.shape)
        np.testing.assert_array_equal(dealt, whole_field)
    if step == 5:  # The last step of its epoch has six examples and two rows of padding.
        assert [int(share.mask.sum()) for share in shares] == [2, 2, 1, 1]


def test_augmentation_changes_with_the_step_and_not_with_repetition():
    generator = np.random.default_rng(8)
    source = on_device(generator.integers(0, 256, (4, 8, 8, 1), np.uint8), np.arange(4))
    cut = plan(train_size=4, batch_size=4, crop_padding=2, flip=True)
    order = jnp.arange(4)
    first, again, other = (
        cut.train_batch(source, order, KEY, step, 0).images for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batches_do_not_depend_on_64_bit_mode():
    cut = plan(crop_padding=2, flip=True)

    def batch():
        return cut.train_batch(numbered(), cut.epoch_order(KEY, 1), KEY, 4, 0)

    expected = batch()
    with jax.enable_x64(True):
        found = batch()
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_half_of_the_images_are_flipped_and_offsets_cover_the_padding():
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    pixels[0, 3, 2, 0] = 255
    source = on_device(pixels, [0])
    cut = plan(train_size=2000, batch_size=2000, crop_padding=2, flip=True)
    moved = cut.train_batch(source, jnp.zeros(2000, jnp.int32), KEY, 0, 0).images[..., 0]
    rows, columns = np.nonzero(np.asarray(moved))[1:]
    assert len(rows) == 2000
    assert set(rows) == {1, 2, 3, 4, 5}
    # Unflipped images have columns 0 to 4, flipped images 3 to 7; 3 and 4 may come from both.
    assert set(columns) == set(range(8))
    assert np.mean(columns < 3) == pytest.approx(0.5 * 3 / 5, abs=0.04)
    assert np.mean(columns > 4) == pytest.approx(0.5 * 3 / 5, abs=0.04)


def test_evaluation_takes_a_split_as_it_is_and_masks_what_follows():
    cut = plan(batch_size=4, devices=2, crop_padding=2, flip=True)
    source = numbered()
    shares = [cut.evaluation_batch(source, 24, 27, device) for device in range(2)]
    assert [share.labels.tolist() for share in shares] == [[24, 26], [25, 26]]
    assert [share.mask.tolist() for share in shares] == [[True, True], [True, False]]
    np.testing.assert_allclose(shares[0].images[:, 0, 0, 0], [24, 26], atol=1e-4)


def test_images_are_normalised_per_channel():
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    pixels[..., :] = [0, 51, 255]
    source = on_device(pixels, [0])
    statistics = {"mean": (0.5, 0.1, 0.2), "std": (0.25, 0.2, 0.4)}
    cut = plan(train_size=1, batch_size=1, image_shape=(8, 8, 3), **statistics)
    # The channels are (0 - .5) / .25, (.2 - .1) / .2 and (1 - .2) / .4.
    batch = cut.evaluation_batch(source, 0, 1, 0)
    np.testing.assert_allclose(batch.images[0, 4, 4], [-2.0, 0.5, 2.0], atol=1e-6)
    assert batch.images.dtype == jnp.float32


def test_device_data_lays_the_splits_one_after_another():
    digits = data.load("digits")
    together, bounds = batches.device_data(digits)
    assert bounds == {"train": (0, 1294), "validation": (1294, 1438), "test": (1438, 1797)}
    for part, (start, stop) in bounds.items():
        split = getattr(digits, part)
        rows = split.images.reshape(len(split), 64)
        np.testing.assert_array_equal(together.images[start:stop], rows)
        np.testing.assert_array_equal(together.labels[start:stop], split.labels)

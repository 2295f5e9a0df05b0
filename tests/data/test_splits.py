"""The embedded digits, and the division of a set: validation, test, few labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import data
from kdjax.data.division import SourceOptions
from kdjax.data.splits import few_per_class, stratified


def test_digits_are_split_in_1294_144_and_359():
    digits = data.load("digits")
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1294, 144, 359)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert set(split.labels) == set(range(10))
    # Published values run from 0 to 16.
    assert set(np.unique(digits.train.images)) <= {round(level * 255 / 16) for level in range(17)}
    assert digits.train.images.max() == 255


def test_digits_are_the_same_each_time_and_the_seed_moves_the_splits():
    first, second = data.load("digits"), data.load("digits")
    assert first.fingerprint() == second.fingerprint()
    other = data.load("digits", SourceOptions(split_seed=1))
    assert not np.array_equal(other.test.images, first.test.images)
    assert not np.array_equal(other.validation.images, first.validation.images)
    most = data.load("digits", SourceOptions(test=0.8))
    assert (len(most.train), len(most.validation), len(most.test)) == (323, 36, 1438)


def test_no_validation_is_possible():
    digits = data.load("digits", SourceOptions(validation=0.0))
    assert (len(digits.train), len(digits.validation)) == (1438, 0)


def test_the_fingerprint_sees_labels_and_order():
    digits = data.load("digits")
    for change in ("swapped", "relabelled"):
        order = np.arange(len(digits.train))
        order[:2] = [1, 0]
        train = digits.train.take(order)
        if change == "relabelled":
            train = data.Split(digits.train.images, (digits.train.labels + 1) % 10)
        changed = data.Dataset(**{**vars(digits), "train": train})
        assert changed.fingerprint() != digits.fingerprint()


# Splits


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    fraction=st.floats(0.0, 0.95),
    seed=st.integers(0, 5),
)
def test_a_stratified_split_is_a_partition_that_takes_each_class_alike(labels, fraction, seed):
    labels = np.array(labels)
    kept, held_out = stratified(labels, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(labels)))
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held_out) > 0)
    assert len(held_out) == round(fraction * len(labels))
    for label in set(labels.tolist()):
        exact = fraction * np.sum(labels == label)
        assert np.floor(exact) <= np.sum(labels[held_out] == label) <= np.floor(exact) + 1
    again = stratified(labels, fraction, seed)
    np.testing.assert_array_equal(again[1], held_out)


def test_the_extra_examples_go_to_the_largest_remainders():
    # .3 of 10, 9 and 5 are 3, 2.7 and 1.5. round(7.2) = 7 leaves one extra, which goes to 2.7.
    labels = np.repeat([0, 1, 2], [10, 9, 5])
    _, held_out = stratified(labels, 0.3, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [3, 3, 1]


def test_the_same_examples_are_drawn_in_every_release():
    """A run that is continued, or compared with an older one, must have the same splits."""
    labels = np.arange(12) % 3
    assert stratified(labels, 0.25, seed=3)[1].tolist() == [0, 7, 11]
    assert few_per_class(labels, 2, seed=3).tolist() == [0, 2, 6, 7, 10, 11]


def test_the_seed_decides_which_examples_are_held_out():
    labels = np.repeat([0, 1], 50)
    assert not np.array_equal(stratified(labels, 0.2, 0)[1], stratified(labels, 0.2, 1)[1])


def test_few_labels_are_drawn_from_each_class_and_more_contain_the_fewer():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [7, 9, 5]))
    few, more = (few_per_class(labels, count, seed=1) for count in (2, 5))
    assert np.bincount(labels[few]).tolist() == [2, 2, 2]
    assert np.bincount(labels[more]).tolist() == [5, 5, 5]
    assert set(few) < set(more)
    assert not np.array_equal(few, few_per_class(labels, 2, seed=2))


def test_few_labels_leave_validation_and_test_as_they_are():
    whole = data.load("digits", SourceOptions(validation=0.5))
    few = data.load("digits", SourceOptions(validation=0.5, labels_per_class=3))
    assert np.bincount(few.train.labels).tolist() == [3] * 10
    np.testing.assert_array_equal(few.validation.images, whole.validation.images)
    np.testing.assert_array_equal(few.test.images, whole.test.images)
    assert few.mean == whole.mean


def test_more_labels_than_there_are_name_the_field_and_the_class():
    with pytest.raises(data.DataError, match=r"labels_per_class is 200: digits, train: class \d"):
        data.load("digits", SourceOptions(labels_per_class=200))

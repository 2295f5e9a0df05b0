"""A user's own set in one npz file."""

import io
import re
import zipfile

import numpy as np
import pytest

from kdjax import data
from kdjax.data.division import SourceOptions


def arrays_of(train=20, test=10, shape=(8, 8, 3), classes=2):
    generator = np.random.default_rng(0)
    return {
        f"{part}_{field}": values
        for part, size in (("train", train), ("test", test))
        for field, values in (
            ("images", generator.integers(0, 256, (size, *shape), np.uint8)),
            ("labels", np.arange(size) % classes),
        )
    }


def npz(tmp_path, arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_is_read_whole(tmp_path):
    arrays = arrays_of()
    loaded = data.load(npz(tmp_path, arrays), SourceOptions(validation=0.0))
    np.testing.assert_array_equal(loaded.train.images, arrays["train_images"])
    np.testing.assert_array_equal(loaded.train.labels, arrays["train_labels"])
    np.testing.assert_array_equal(loaded.test.images, arrays["test_images"])
    assert loaded.class_names == ("0", "1")
    assert loaded.image_shape == (8, 8, 3)


def test_npz_may_hold_grey_images_without_a_channel_axis_and_class_names(tmp_path):
    arrays = arrays_of(shape=(9, 8)) | {"class_names": np.array(["cat", "dog", "eel"])}
    loaded = data.load(npz(tmp_path, arrays))
    assert loaded.image_shape == (9, 8, 1)
    assert loaded.class_names == ("cat", "dog", "eel")


def test_npz_without_test_gives_a_share_of_each_class(tmp_path):
    arrays = arrays_of(train=40)
    del arrays["test_images"], arrays["test_labels"]
    loaded = data.load(npz(tmp_path, arrays), SourceOptions(validation=0.25, test=0.2))
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (24, 8, 8)
    for split in (loaded.train, loaded.validation, loaded.test):
        assert np.sum(split.labels == 0) == len(split) // 2


def without(name):
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


def replaced(**changes):
    return lambda arrays: arrays | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("train_labels"), "expected ['train_images', 'train_labels']"),
        (without("train_images"), "expected ['train_images', 'train_labels']"),
        (without("test_labels"), "test_images and test_labels"),
        (replaced(train_images=np.array([{"a": 1}] * 20)), "allow_pickle"),
        (replaced(train_images=np.zeros((20, 8, 8, 3))), "train: images have dtype float64"),
        (replaced(train_images=np.zeros((20, 64), np.uint8)), "images have shape (20, 64)"),
        (replaced(train_images=np.zeros((20, 8, 8, 2), np.uint8)), "have 2 channels"),
        (replaced(train_images=np.zeros((20, 7, 9, 3), np.uint8)), "7 x 9 pixels"),
        (replaced(train_images=np.zeros((19, 8, 8, 3), np.uint8)), "19 images but 20 labels"),
        (replaced(train_labels=np.zeros(20, np.float32)), "dtype float32"),
        (replaced(train_labels=np.zeros((20, 2), int)), "labels have shape (20, 2)"),
        (replaced(train_labels=-np.ones(20, int)), "train: label -1 of example 0 is outside"),
        (replaced(train_labels=np.zeros(20, int)), "1 class; a classifier needs at least 2"),
        (
            replaced(train_labels=np.array([0, 1, -1] + [0] * 17)),
            "train: label -1 of example 2 is outside [0, 2); 1 labels are",
        ),
        (
            replaced(test_labels=np.array([0, 2, 1, 2] + [0] * 6)),
            "test: label 2 of example 1 is outside [0, 2); 2 labels are",
        ),
        (
            replaced(test_images=np.zeros((0, 8, 8, 3), np.uint8), test_labels=np.zeros(0, int)),
            "test: the split is empty",
        ),
        (
            replaced(
                train_images=np.zeros((0, 8, 8, 3), np.uint8),
                train_labels=np.zeros(0, int),
            ),
            "train: the split is empty",
        ),
        (
            replaced(class_names=np.array("ab")),
            "class_names has shape () and dtype <U2: expected a text for each class",
        ),
        (replaced(class_names=np.array([1, 2])), "class_names has shape (2,) and dtype int64"),
        (replaced(class_names=np.array(["a", "a"])), "class_names: 'a' is there more than once"),
        (replaced(class_names=np.array([b"a", b"\xe9"])), "class_names: bytes that are not UTF-8"),
        (
            replaced(test_images=np.zeros((10, 8, 9, 3), np.uint8)),
            "train images are (8, 8, 3), test images are (8, 9, 3)",
        ),
    ],
)
def test_npz_that_is_wrong_says_how(tmp_path, change, message):
    with pytest.raises(data.DataError, match=re.escape(message)) as caught:
        data.load(npz(tmp_path, change(arrays_of())))
    assert "set.npz" in str(caught.value)


def npy_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((20, 8, 8, 3), np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"this is no archive", b"", npy_bytes()])
def test_npz_that_is_no_archive(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"bad\.npz cannot be read: it is not an npz"):
        data.load(f"npz:{path}")


def test_npz_that_is_damaged(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **arrays_of())
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"bad\.npz cannot be read"):
        data.load(f"npz:{path}")


@pytest.mark.parametrize(
    ("flag", "reason"),
    [(0x01, "encrypted, password required"), (0x40, "strong encryption")],
)
def test_npz_whose_damage_looks_like_encryption(tmp_path, flag, reason):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays_of())
    content = bytearray(path.read_bytes())
    # Set the flags of the first file in its own header and in the archive's directory.
    for place in (6, content.index(b"PK\1\2") + 8):
        content[place] |= flag
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=rf"bad\.npz cannot be read: .*{reason}"):
        data.load(f"npz:{path}")


def test_npz_whose_error_has_no_text(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise EOFError

    name = npz(tmp_path, arrays_of())
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(data.DataError, match=r"set\.npz cannot be read: EOFError"):
        data.load(name)


def test_npz_whose_files_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        for name in ("train_images", "train_labels"):
            archive.writestr(name, b"pixels")
    with pytest.raises(data.DataError, match=r"cannot be read: train_images: not stored as"):
        data.load(f"npz:{tmp_path / 'bad.npz'}")


def test_npz_entries_that_are_not_used_are_not_read(tmp_path, caplog):
    objects = np.array([{"made": "by hand"}], object)
    loaded = data.load(npz(tmp_path, arrays_of() | {"meta": objects}))
    assert len(loaded.test) == 10 and "not used: meta" in caplog.text
    with pytest.raises(data.DataError, match="cannot be read: train_labels: Object arrays"):
        data.load(npz(tmp_path, arrays_of() | {"train_labels": objects}))


def test_npz_class_names_may_be_bytes(tmp_path):
    names = np.array(["caf\u00e9".encode(), b"tea"])
    assert data.load(npz(tmp_path, arrays_of() | {"class_names": names})).class_names == (
        "caf\u00e9",
        "tea",
    )


def test_npz_labels_that_are_no_numbers_of_classes(tmp_path):
    """Large numbers such as identifiers: names of all classes up to them would fill the memory."""
    arrays = arrays_of()
    arrays["train_labels"][3] = 30_000_000
    message = (
        "set.npz, train: label 30000000 of example 3 means 30,000,001 classes; without class_names "
        "there may be as many classes as images in all splits, 30, or up to 100,000"
    )
    with pytest.raises(data.DataError, match=re.escape(message)):
        data.load(npz(tmp_path, arrays))


def test_npz_of_few_images_may_have_labels_of_many_classes(tmp_path):
    """For example data that the networks were not trained on."""
    arrays = {"train_images": np.zeros((1, 8, 8), np.uint8), "train_labels": np.array([999])}
    loaded = data.load(
        npz(tmp_path, arrays), SourceOptions(validation=0.0, test=0.0, min_classes=1)
    )
    assert (loaded.num_classes, loaded.sizes) == (1000, {"train": 1, "validation": 0, "test": 0})


def test_npz_that_is_missing(tmp_path):
    with pytest.raises(data.DataError, match=r"none\.npz': there is no such file"):
        data.load(f"npz:{tmp_path / 'none.npz'}")


def test_an_unknown_kind_of_source_lists_the_known_ones():
    with pytest.raises(
        data.DataError, match=r"unknown kind of dataset 'zip' .* npz:<path>, folder"
    ):
        data.load("zip:somewhere")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int8])
def test_labels_are_whole_numbers_of_any_type(tmp_path, dtype):
    """Labels as in dumps of CIFAR and MNIST, without names of classes."""
    path, labels = tmp_path / "set.npz", np.arange(20) % 3
    np.savez(path, train_images=np.zeros((20, 8, 8), np.uint8), train_labels=labels.astype(dtype))
    read = data.load(f"npz:{path}", SourceOptions(validation=0.0))
    assert read.class_names == ("0", "1", "2")
    assert sorted(np.concatenate([read.train.labels, read.test.labels])) == sorted(labels)

"""Sources, splits, the cache, statistics and batches."""

import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import data
from kdjax.data import batches, cache, images
from kdjax.data.dataset import channel_statistics
from kdjax.data.division import SourceOptions
from kdjax.data.splits import few_per_class, stratified

# Digits


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
    # .3 of 10, 9 and 5 are 3, 2.7 and 1.5; round(7.2) = 7 leaves one extra, for 2.7.
    labels = np.repeat([0, 1, 2], [10, 9, 5])
    _, held_out = stratified(labels, 0.3, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [3, 3, 1]


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


# npz


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


def test_npz_that_is_missing(tmp_path):
    with pytest.raises(data.DataError, match=r"none\.npz': there is no such file"):
        data.load(f"npz:{tmp_path / 'none.npz'}")


def test_an_unknown_kind_of_source_lists_the_known_ones():
    with pytest.raises(
        data.DataError, match=r"unknown kind of dataset 'zip' .* npz:<path>, folder"
    ):
        data.load("zip:somewhere")


# Folders


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)
    return array


def write_folder(root, per_class=4, shape=(8, 10, 3), seed=0, classes=("ape", "bee")):
    generator = np.random.default_rng(seed)
    return np.stack(
        [
            write_image(root / name / f"{index}.png", generator.integers(0, 256, shape, np.uint8))
            for name in classes
            for index in range(per_class)
        ]
    )


WHOLE = SourceOptions(validation=0.0, test=0.25)


def test_folder_with_train_and_test(tmp_path):
    train = write_folder(tmp_path / "train", 4)
    test = write_folder(tmp_path / "test", 2, seed=1)
    loaded = data.load(f"folder:{tmp_path}", WHOLE)
    np.testing.assert_array_equal(loaded.train.images, train)
    np.testing.assert_array_equal(loaded.train.labels, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(loaded.test.images, test)
    np.testing.assert_array_equal(loaded.test.labels, [0, 0, 1, 1])
    assert loaded.class_names == ("ape", "bee")


def test_flat_folder_gives_a_share_of_each_class_for_test(tmp_path):
    written = write_folder(tmp_path, 4, shape=(8, 8))
    loaded = data.load(f"folder:{tmp_path}", WHOLE)
    assert loaded.image_shape == (8, 8, 1)  # grey stays grey
    assert np.bincount(loaded.train.labels).tolist() == [3, 3]
    assert np.bincount(loaded.test.labels).tolist() == [1, 1]
    whole = np.concatenate([loaded.train.images, loaded.test.images])[..., 0]
    assert {image.tobytes() for image in whole} == {image.tobytes() for image in written}


def test_one_colour_image_makes_the_whole_folder_colour(tmp_path):
    grey = write_folder(tmp_path / "train", 2, shape=(8, 8))
    write_folder(tmp_path / "train", 1, shape=(8, 8, 3), classes=("cow",))
    loaded = data.load(f"folder:{tmp_path}", SourceOptions(validation=0.0, test=0.4))
    assert loaded.image_shape == (8, 8, 3)
    first = np.concatenate([loaded.train.images, loaded.test.images])
    assert any(np.array_equal(image, np.repeat(grey[0][..., None], 3, -1)) for image in first)


def test_a_file_that_does_not_decode_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "bee" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(data.DataError, match=r"bee.2\.png does not decode as an image"):
        data.load(f"folder:{tmp_path}", WHOLE)


def test_a_truncated_file_is_named(tmp_path):
    write_folder(tmp_path, shape=(32, 32, 3))
    path = tmp_path / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(data.DataError, match=r"bee.1\.png does not decode as an image"):
        data.load(f"folder:{tmp_path}", WHOLE)


def test_images_of_another_size_are_named_and_can_be_resized(tmp_path):
    write_folder(tmp_path)
    write_image(tmp_path / "bee" / "3.png", np.full((20, 12, 3), 7, np.uint8))
    with pytest.raises(data.DataError, match=r"bee.3\.png is 20 x 12 pixels.*0\.png is 8 x 10"):
        data.load(f"folder:{tmp_path}", WHOLE)
    options = SourceOptions(validation=0.0, test=0.25, image_size=(16, 9))
    loaded = data.load(f"folder:{tmp_path}", options)
    assert loaded.image_shape == (16, 9, 3)
    both = np.concatenate([loaded.train.images, loaded.test.images])
    assert sum((image == 7).all() for image in both) == 1  # a constant stays one


def test_a_folder_of_empty_classes_says_so(tmp_path):
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "notes.txt").write_text("no image")
    with pytest.raises(data.DataError, match=r"its folders hold no images \(\.bmp, "):
        data.load(f"folder:{tmp_path}", WHOLE)


def test_a_test_class_that_train_lacks_is_named(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", classes=("ape", "bee", "cow"))
    with pytest.raises(data.DataError, match=r"has classes \['cow'\] that train lacks"):
        data.load(f"folder:{tmp_path}", WHOLE)


def test_a_folder_that_is_missing_or_empty(tmp_path):
    with pytest.raises(data.DataError, match="there is no such folder"):
        data.load(f"folder:{tmp_path / 'none'}")
    with pytest.raises(data.DataError, match="holds no folders; expected one per class"):
        data.load(f"folder:{tmp_path}")


# The cache


def forbid_decoding(monkeypatch):
    def decode(*arguments):
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(images, "decode", decode)


def test_a_second_load_reads_the_cache(tmp_path, monkeypatch):
    write_folder(tmp_path, seed=20)
    first = data.load(f"folder:{tmp_path}", WHOLE)
    forbid_decoding(monkeypatch)
    second = data.load(f"folder:{tmp_path}", WHOLE)
    assert second.fingerprint() == first.fingerprint()
    with pytest.raises(AssertionError, match="decoded again"):  # another size is another content
        data.load(f"folder:{tmp_path}", SourceOptions(image_size=(9, 9)))


def test_a_changed_file_is_decoded_again(tmp_path):
    write_folder(tmp_path, seed=21)
    data.load(f"folder:{tmp_path}", WHOLE)
    write_image(tmp_path / "ape" / "0.png", np.full((8, 10, 3), 9, np.uint8))
    loaded = data.load(f"folder:{tmp_path}", WHOLE)
    both = np.concatenate([loaded.train.images, loaded.test.images])
    assert sum((image == 9).all() for image in both) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_is_decoded_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "set", seed=22)
    first = data.load(f"folder:{tmp_path / 'set'}", WHOLE)
    (stored,) = (tmp_path / "cache" / "data").iterdir()
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 0xFF
    stored.write_bytes(
        {"truncated": content[: len(content) // 2], "flipped": content, "empty": b""}[damage]
    )
    assert data.load(f"folder:{tmp_path / 'set'}", WHOLE).fingerprint() == first.fingerprint()
    forbid_decoding(monkeypatch)  # and it was stored anew
    assert data.load(f"folder:{tmp_path / 'set'}", WHOLE).fingerprint() == first.fingerprint()


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the directory should be")
    monkeypatch.setenv("KDJAX_CACHE", str(blocked))
    made = cache.cached("name", lambda: {"a": np.arange(3)})
    np.testing.assert_array_equal(made["a"], [0, 1, 2])


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "own"))
    assert cache.cache_directory() == tmp_path / "own"
    monkeypatch.delenv("KDJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_directory() == tmp_path / "kdjax"


# Prepared TFDS sets


def png(array):
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def tfds_arrays():
    generator = np.random.default_rng(4)
    return {
        part: (generator.integers(0, 256, (size, 8, 8, 3), np.uint8), np.arange(size) % 3)
        for part, size in (("train", 12), ("test", 6))
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small set prepared as array_record, without TensorFlow; its data directory."""
    import tensorflow_datasets as tfds

    arrays = tfds_arrays()

    class TinySet(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["ape", "bee", "cow"]),
                }
            )
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {part: self._generate_examples(part) for part in arrays}

        def _generate_examples(self, part):
            for index, (image, label) in enumerate(zip(*arrays[part], strict=True)):
                yield index, {"image": io.BytesIO(png(image)), "label": int(label)}

    root = tmp_path_factory.mktemp("tfds")
    TinySet(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def multiset(pixels, labels):
    return sorted((image.tobytes(), label) for image, label in zip(pixels, labels, strict=True))


@pytest.mark.parametrize("kind", ["name", "environment", "directory"])
def test_a_prepared_set_is_read_without_tensorflow(prepared, kind, monkeypatch):
    options = SourceOptions(validation=0.0, data_dir=str(prepared) if kind == "name" else "")
    name = "tiny_set"
    if kind == "environment":
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    elif kind == "directory":
        name = f"tfds:{prepared / 'tiny_set' / '1.0.0'}"
    loaded = data.load(name, options)
    arrays = tfds_arrays()
    for part, split in (("train", loaded.train), ("test", loaded.test)):
        assert multiset(split.images, split.labels) == multiset(*arrays[part])
    assert loaded.class_names == ("ape", "bee", "cow")
    expected = arrays["train"][0].reshape(-1, 3) / 255
    np.testing.assert_allclose(loaded.mean, expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(loaded.std, expected.std(0), rtol=1e-12)


def test_a_prepared_set_is_cached(prepared, monkeypatch):
    options = SourceOptions(data_dir=str(prepared))
    first = data.load("tiny_set", options)
    forbid_decoding(monkeypatch)
    assert data.load("tiny_set", options).fingerprint() == first.fingerprint()


def test_a_missing_set_says_what_is_there_and_how_to_get_it(prepared):
    with pytest.raises(data.DataError, match="dataset 'cifar10' is not in") as caught:
        data.load("cifar10", SourceOptions(data_dir=str(prepared)))
    message = str(caught.value)
    for part in (str(prepared), "there: ", "tiny_set", "kdjax prepare cifar10", "data_dir="):
        assert part in message


def test_a_missing_data_directory_says_so(tmp_path):
    with pytest.raises(data.DataError, match="there: nothing"):
        data.load("cifar10", SourceOptions(data_dir=str(tmp_path / "none")))


def test_a_directory_that_was_not_prepared(tmp_path):
    with pytest.raises(data.DataError, match=r"has no dataset_info\.json"):
        data.load(f"tfds:{tmp_path}")


def test_a_set_in_another_format_is_refused(prepared, tmp_path):
    source = prepared / "tiny_set" / "1.0.0"
    target = tmp_path / "tiny_set" / "1.0.0"
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".json":
            (target / path.name).write_bytes(path.read_bytes())
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(data.DataError, match="only array_record can be read"):
        data.load(f"tfds:{target}")


# Statistics


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
    """A set whose first pixel and label are the number of the example."""
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
        batch = cut.train(numbered(), order, KEY, step, 0)
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
    whole = plan(**changes).train(numbered(), order, KEY, step, 0)
    shares = [
        plan(devices=4, **changes).train(numbered(), order, KEY, step, device)
        for device in range(4)
    ]
    assert {share.labels.shape for share in shares} == {(2,)}
    # Dealt like cards: device d holds positions d, d + 4, ...
    for whole_field, share_fields in zip(whole, zip(*shares, strict=True), strict=True):
        dealt = np.stack(share_fields, axis=1).reshape(whole_field.shape)
        np.testing.assert_array_equal(dealt, whole_field)
    if step == 5:  # the last of its epoch: six examples and two of padding
        assert [int(share.mask.sum()) for share in shares] == [2, 2, 1, 1]


def test_augmentation_changes_with_the_step_and_not_with_repetition():
    generator = np.random.default_rng(8)
    source = on_device(generator.integers(0, 256, (4, 8, 8, 1), np.uint8), np.arange(4))
    cut = plan(train_size=4, batch_size=4, crop_padding=2, flip=True)
    order = jnp.arange(4)
    first, again, other = (cut.train(source, order, KEY, step, 0).images for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_half_of_the_images_are_flipped_and_offsets_cover_the_padding():
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    pixels[0, 3, 2, 0] = 255
    source = on_device(pixels, [0])
    cut = plan(train_size=2000, batch_size=2000, crop_padding=2, flip=True)
    moved = cut.train(source, jnp.zeros(2000, jnp.int32), KEY, 0, 0).images[..., 0]
    rows, columns = np.nonzero(np.asarray(moved))[1:]
    assert len(rows) == 2000
    assert set(rows) == {1, 2, 3, 4, 5}
    # Left to right: columns 0..4 unflipped, 7 - (0..4) = 3..7 flipped; 3 and 4 are either's.
    assert set(columns) == set(range(8))
    assert np.mean(columns < 3) == pytest.approx(0.5 * 3 / 5, abs=0.04)
    assert np.mean(columns > 4) == pytest.approx(0.5 * 3 / 5, abs=0.04)


def test_evaluation_takes_a_split_as_it_is_and_masks_what_follows():
    cut = plan(batch_size=4, devices=2, crop_padding=2, flip=True)
    source = numbered()
    shares = [cut.evaluation(source, 24, 27, device) for device in range(2)]
    assert [share.labels.tolist() for share in shares] == [[24, 26], [25, 26]]
    assert [share.mask.tolist() for share in shares] == [[True, True], [True, False]]
    np.testing.assert_allclose(shares[0].images[:, 0, 0, 0], [24, 26], atol=1e-4)


def test_images_are_normalised_per_channel():
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    pixels[..., :] = [0, 51, 255]
    source = on_device(pixels, [0])
    statistics = {"mean": (0.5, 0.1, 0.2), "std": (0.25, 0.2, 0.4)}
    cut = plan(train_size=1, batch_size=1, image_shape=(8, 8, 3), **statistics)
    # (0 - .5) / .25, (.2 - .1) / .2, (1 - .2) / .4
    batch = cut.evaluation(source, 0, 1, 0)
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


def test_images_of_more_than_8_bits_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        deep = np.full((8, 8), 1000, np.uint16)
        PIL.Image.fromarray(deep).save(tmp_path / name / "deep.png")
    with pytest.raises(data.DataError, match=r"deep\.png does not decode.*more than 8 bits"):
        data.load(f"folder:{tmp_path}")

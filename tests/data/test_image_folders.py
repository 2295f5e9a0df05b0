"""Folders of images: read, resized, refused; decoded once and cached."""

import io
import os
import re

import numpy as np
import PIL.Image
import pytest

from kdjax import data
from kdjax.data import cache
from kdjax.data.division import SourceOptions


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
    assert loaded.image_shape == (8, 8, 1)  # Grey images stay grey.
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


def _deep_png():
    """The bytes of a grey image with 16 bits a channel, which Pillow opens in a mode of its own."""
    encoded = io.BytesIO()
    PIL.Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(encoded, "png")
    return encoded.getvalue()


DAMAGED_HEADERS = {
    "deep.png": _deep_png(),
    # The first chunk has length 5 instead of 13.
    "bad.png": b"\x89PNG\r\n\x1a\n\0\0\0\5IHDR\0\0\0\x08\0\0\0\x08\x08\0\0\0\0\xe1\x64\xe1\x57",
    "bad.ppm": b"P6\n99999999999999999999 8\n255\n" + b"0" * 192,
}


@pytest.mark.parametrize("read", [data.load, data.stream])
@pytest.mark.parametrize("name", DAMAGED_HEADERS)
def test_a_damaged_header_is_named_or_left_out(tmp_path, read, name):
    write_folder(tmp_path, shape=(8, 8))
    (tmp_path / "ape" / name).write_bytes(DAMAGED_HEADERS[name])
    with pytest.raises(data.DataError, match=rf"ape.{re.escape(name)} does not decode as an image"):
        read(f"folder:{tmp_path}", WHOLE)
    skipping = SourceOptions(validation=0.0, test=0.25, skip_corrupt=True)
    assert read(f"folder:{tmp_path}", skipping).image_shape == (8, 8, 1)


def test_images_of_another_size_are_named_and_can_be_resized(tmp_path):
    write_folder(tmp_path)
    write_image(tmp_path / "bee" / "3.png", np.full((20, 12, 3), 7, np.uint8))
    with pytest.raises(data.DataError, match=r"bee.3\.png is 20 x 12 pixels.*0\.png is 8 x 10"):
        data.load(f"folder:{tmp_path}", WHOLE)
    options = SourceOptions(validation=0.0, test=0.25, image_size=(16, 9))
    loaded = data.load(f"folder:{tmp_path}", options)
    assert loaded.image_shape == (16, 9, 3)
    both = np.concatenate([loaded.train.images, loaded.test.images])
    assert sum((image == 7).all() for image in both) == 1  # Constant images stay so.


def test_links_are_followed_once_and_what_is_not_used_is_named(tmp_path, caplog):
    write_folder(tmp_path / "set")
    write_image(tmp_path / "more" / "9.png", np.zeros((8, 10, 3), np.uint8))
    ape = tmp_path / "set" / "ape"
    (ape / "linked").symlink_to(tmp_path / "more")
    (ape / "loop").symlink_to(ape)
    (ape / "0.png").rename(ape / "0.jfif")
    for name in ("ape/one.heic", "ape/two", "bee/.hidden", "top.png"):
        (tmp_path / "set" / name).write_bytes(b"")
    with caplog.at_level("WARNING"):
        loaded = data.load(f"folder:{tmp_path / 'set'}", SourceOptions(validation=0.0, test=0.0))
    assert len(loaded.train) == 9
    (record,) = caplog.records
    assert "3 files are not used, since they are no images of a class: " in record.getMessage()
    assert "ape/one.heic" in record.getMessage() and "top.png" in record.getMessage()


def test_what_is_left_out_is_named_once_and_again_from_the_cache(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "ape" / "0.png").write_bytes(b"broken")
    options = SourceOptions(validation=0.0, test=0.0, skip_corrupt=True)
    for said in ("0.png does not decode", "1 files do not decode and are left out: ape/0.png"):
        caplog.clear()
        assert len(data.load(f"folder:{tmp_path}", options).train) == 7
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert said in record.getMessage()


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


def test_a_second_load_reads_the_cache(tmp_path, forbid_decoding):
    write_folder(tmp_path, seed=20)
    first = data.load(f"folder:{tmp_path}", WHOLE)
    forbid_decoding()
    second = data.load(f"folder:{tmp_path}", WHOLE)
    assert second.fingerprint() == first.fingerprint()
    with pytest.raises(AssertionError, match="decoded again"):  # Another size: not cached.
        data.load(f"folder:{tmp_path}", SourceOptions(image_size=(9, 9)))


def test_a_changed_file_is_decoded_again(tmp_path):
    write_folder(tmp_path, seed=21)
    data.load(f"folder:{tmp_path}", WHOLE)
    write_image(tmp_path / "ape" / "0.png", np.full((8, 10, 3), 9, np.uint8))
    loaded = data.load(f"folder:{tmp_path}", WHOLE)
    both = np.concatenate([loaded.train.images, loaded.test.images])
    assert sum((image == 9).all() for image in both) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_is_decoded_again(tmp_path, monkeypatch, forbid_decoding, damage):
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
    forbid_decoding()  # The cache was written again.
    assert data.load(f"folder:{tmp_path / 'set'}", WHOLE).fingerprint() == first.fingerprint()


@pytest.mark.parametrize("error", [NotImplementedError("encrypted"), EOFError(), MemoryError()])
def test_a_cache_that_cannot_be_read_for_any_reason_is_made_again(
    tmp_path, monkeypatch, caplog, error
):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path))
    cache.cached("name", lambda: {"a": np.arange(2)})

    def refuse(*arguments, **named):
        raise error

    monkeypatch.setattr(np, "load", refuse)
    np.testing.assert_array_equal(cache.cached("name", lambda: {"a": np.arange(3)})["a"], [0, 1, 2])
    assert f"cannot be read ({str(error) or type(error).__name__}): decoding again" in caplog.text


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
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KDJAX_CACHE", "~/own")
    assert cache.cache_directory() == tmp_path / "home" / "own"
    for name in ("KDJAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # A user without a home.
    assert cache.cache_directory().name == f"kdjax-{os.getuid()}"


def test_images_of_more_than_8_bits_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        deep = np.full((8, 8), 1000, np.uint16)
        PIL.Image.fromarray(deep).save(tmp_path / name / "deep.png")
    with pytest.raises(data.DataError, match=r"deep\.png does not decode.*more than 8 bits"):
        data.load(f"folder:{tmp_path}")


def test_a_file_that_cannot_be_read_is_named_or_left_out(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", 4)
    write_folder(tmp_path / "test", 2)
    lost = tmp_path / "train" / "bee" / "0.png"

    read_bytes = type(lost).read_bytes

    def refused(path):
        if path == lost:
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(type(lost), "read_bytes", refused)

    def images(skip_corrupt):
        options = SourceOptions(validation=0.0, image_size=(8, 8), skip_corrupt=skip_corrupt)
        return len(data.load(f"folder:{tmp_path}", options).train)

    with pytest.raises(data.DataError, match=re.escape(str(lost))):
        images(False)
    assert images(True) == 7

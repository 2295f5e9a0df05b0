"""Folders: which are splits, which are classes, and which are neither."""

import errno
import os

import numpy as np
import PIL.Image
import pytest

from kdjax import data
from kdjax.data import DataError, SourceOptions
from kdjax.data.folders import find_images


def touch(root, *names):
    """Creates empty files, because these tests decode nothing."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(root):
    """Returns the number of images by part, and the classes."""
    _, class_names, listings = find_images(str(root))
    return {part: len(listing) for part, listing in listings.items()}, class_names


TWO = ("train/ape/1.png", "train/bee/1.png")


@pytest.mark.parametrize("called", ["val", "valid", "validation", "Val"])
def test_a_validation_folder_is_the_validation_split(tmp_path, called):
    touch(tmp_path, *TWO, f"{called}/ape/1.png", f"{called}/ape/2.png", "test/bee/1.png")
    assert found(tmp_path) == ({"train": 2, "validation": 2, "test": 1}, ("ape", "bee"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # `train` is a class if it holds images itself or if there are other classes beside it.
        (("train/1.png", "plane/1.png"), ({"train": 2}, ("plane", "train"))),
        (("train/1.png", "test/1.png", "car/1.png"), ({"train": 3}, ("car", "test", "train"))),
        (("test/1.png", "car/old/1.png"), ({"train": 2}, ("car", "test"))),
        # These are splits, whatever else is in the folder.
        ((*TWO, "test/ape/1.png", "notes/a.txt"), ({"train": 2, "test": 1}, ("ape", "bee"))),
        (TWO, ({"train": 2}, ("ape", "bee"))),
        # A class may hold images in subfolders.
        (("ape/a/1.png", "ape/b/c/2.JPG", "bee/1.png"), ({"train": 3}, ("ape", "bee"))),
    ],
)
def test_what_is_a_split_and_what_a_class(tmp_path, files, expected):
    touch(tmp_path, *files)
    assert found(tmp_path) == expected


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """Where a user has no permission; the superuser always has."""
    touch(tmp_path, *TWO)
    closed, scan = str(tmp_path / "train" / "bee"), os.scandir

    def refuse(place):
        if str(place) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="bee cannot be read: Permission denied"):
        find_images(str(tmp_path))


def test_files_are_in_the_order_of_their_folders(tmp_path):
    """Sorted as paths, not as texts, in which a dot comes before a slash."""
    touch(tmp_path, *TWO, "train/ape/a/2.png", "train/ape/a.b/1.png", "train/ape/a.png")
    _, _, listings = find_images(str(tmp_path))
    paths = sorted((tmp_path / "train").rglob("*.png"))
    assert [tmp_path / name for name, _ in listings["train"]] == paths


def test_links_that_lead_to_no_file_are_passed_over(tmp_path):
    touch(tmp_path, *TWO)
    seen = found(tmp_path)
    (tmp_path / "train" / "ape" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "ape" / "itself.png").symlink_to("itself.png")
    (tmp_path / "train" / "ape" / "below.png").symlink_to("1.png/below.png")
    assert found(tmp_path) == seen


def test_hidden_names_and_what_archives_leave_are_passed_over(tmp_path):
    touch(tmp_path, *TWO, "test/ape/1.png", "test/bee/1.png")
    seen = found(tmp_path)
    touch(
        tmp_path,
        *(".git/a.png", "__MACOSX/train/ape/1.png", ".ipynb_checkpoints/a.png"),
        *("train/.cache/1.png", "train/@eaDir/1.png", "test/__MACOSX/1.png"),
        *("train/ape/._1.png", "train/ape/.thumbs/1.png", "train/bee/@eaDir/1.png"),
    )
    assert found(tmp_path) == seen


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((*TWO, "extra/1.png"), "are they splits or classes"),
        ((*TWO, "val/ape/1.png", "valid/ape/1.png"), "holds both val/ and valid/"),
        ((*TWO, "test/1.png"), "test holds no folders; expected one per class"),
        ((*TWO, "test/cow/1.png"), r"test has classes \['cow'\] that train lacks"),
        ((*TWO, "val/ape/1.txt"), "val: its folders hold no images"),
        (("val/ape/1.png", "test/ape/1.png"), "holds test, val, but no train"),
    ],
)
def test_a_folder_that_is_wrong_says_how(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        find_images(str(tmp_path))


def test_what_lies_beside_splits_is_named(tmp_path, caplog):
    touch(tmp_path, *TWO, "test/ape/1.png", "extra/ape/1.png")
    find_images(str(tmp_path))
    assert f"{tmp_path}: not used: extra" in caplog.messages


@pytest.mark.parametrize("read", [data.load, data.stream])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:", "config.data.name is 'folder:': expected folder:<dir>"),
        ("tfds:", "config.data.name is 'tfds:': expected tfds:<prepared dir>"),
        ("folder:nowhere", "config.data.name is 'folder:nowhere': there is no such folder"),
        ("tfds:nowhere", "config.data.name is 'tfds:nowhere': there is no such folder"),
    ],
)
def test_a_name_without_a_place_is_named(read, name, message):
    with pytest.raises(DataError, match=message):
        read(name)


def test_an_npz_without_a_path_is_named():
    with pytest.raises(DataError, match=r"config\.data\.name is 'npz:': expected npz:<file>"):
        data.load("npz:")


def write_images(root, *names):
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / name)


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_an_empty_class_is_warned_of_once(tmp_path, caplog, read):
    write_images(tmp_path, *(f"{name}/{n}.png" for name in ("ape", "cow") for n in range(10)))
    (tmp_path / "bee").mkdir()
    assert read(f"folder:{tmp_path}").num_classes == 3
    assert warned(caplog) == [f"folder:{tmp_path}: no training images of 1 of 3 classes: bee"]


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_a_split_without_a_class_is_warned_of(tmp_path, caplog, read):
    write_images(tmp_path, *(f"ape/{n}.png" for n in range(10)), "bee/0.png")
    read(f"folder:{tmp_path}")
    assert warned(caplog) == [
        f"folder:{tmp_path}: no {split} images of 1 of 2 classes: bee"
        for split in ("validation", "test")
    ]


def test_classes_that_labels_pass_over_are_warned_of(tmp_path, caplog):
    path = tmp_path / "set.npz"
    labels = np.tile([0, 1, 3, 9], 25)
    np.savez(path, train_images=np.zeros((100, 8, 8), np.uint8), train_labels=labels)
    assert data.load(f"npz:{path}").num_classes == 10
    assert warned(caplog) == [
        f"npz:{path}: no training images of 6 of 10 classes: 2, 4, 5, 6, 7, 8"
    ]


@pytest.mark.parametrize("read", [data.load, data.stream])
@pytest.mark.parametrize("empty", [False, True])
def test_images_of_one_class_are_refused(tmp_path, read, empty):
    write_images(tmp_path, *(f"ape/{number}.png" for number in range(8)))
    if empty:
        (tmp_path / "bee").mkdir()
    with pytest.raises(DataError, match=r"1 class; a classifier needs at least 2 \(there is on"):
        read(f"folder:{tmp_path}")


def test_an_npz_may_have_a_validation_split(tmp_path, caplog):
    rng, path = np.random.default_rng(0), tmp_path / "set.npz"
    arrays = {
        f"{part}_{field}": values
        for part, size in (("train", 20), ("validation", 6), ("test", 8))
        for field, values in (
            ("images", rng.integers(0, 256, (size, 8, 8, 3), np.uint8)),
            ("labels", np.arange(size) % 2),
        )
    }
    np.savez(path, **arrays, val_images=np.zeros(3))
    loaded = data.load(f"npz:{path}")
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(loaded, part).images, arrays[f"{part}_images"])
    assert warned(caplog) == [f"npz:{path}: not used: val_images"]
    del arrays["validation_labels"]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="validation_images and validation_labels"):
        data.load(f"npz:{path}")


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_a_corrupt_image_names_its_file(tmp_path, read):
    write_images(tmp_path, *(f"{name}/{n}.png" for name in ("ape", "cow") for n in range(4)))
    (tmp_path / "cow" / "2.png").write_bytes(b"no image")
    message = r"cow/2\.png does not decode as an image: Pillow does not know its format"
    with pytest.raises(DataError, match=message):
        read(f"folder:{tmp_path}", SourceOptions(image_size=(8, 8)))

"""Every field of the data means the same for a set in memory and for a stream."""

import io
import logging
import os

import numpy as np
import PIL.Image
import pytest

from kdjax import data
from kdjax.data import DataError, SourceOptions, records, survey

CLASSES = ("ape", "bee", "cow")


def write(path, height=12, width=10, grey=False, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return pixels


def write_classes(root, count, seed=0, **image):
    for number in range(count):
        # Classes have different sizes, so that a split without stratification would be noticed.
        label = min(number % 4, 2)
        write(root / CLASSES[label] / f"{number:02d}.png", seed=100 * seed + number, **image)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The root of folders that are named after their layout."""
    root = tmp_path_factory.mktemp("layouts")
    write_classes(root / "flat", 40)
    write_classes(root / "grey", 24, grey=True)
    for layout in ("test", "val", "both"):
        write_classes(root / layout / "train", 40)
    write_classes(root / "test" / "test", 12, 1)
    write_classes(root / "val" / "val", 8, 2)
    write_classes(root / "both" / "test", 12, 1)
    write_classes(root / "both" / "valid", 8, 2)
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The root of prepared TFDS sets with different splits; image sizes differ in the last one."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")

    def prepare(name, counts, shape=(12, 10, 3), unlabelled=()):
        def info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def examples(part, count):
            rng = np.random.default_rng(len(part))
            for index in range(count):
                height = 12 if shape[0] else 12 + index % 3
                pixels = rng.integers(0, 256, (height, 10, 3), np.uint8)
                out = io.BytesIO()
                PIL.Image.fromarray(pixels).save(out, "PNG")
                out.seek(0)
                yield index, {"image": out, "label": -1 if part in unlabelled else index % 3}

        methods = {
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": info,
            "_split_generators": lambda self, _: {
                part: examples(part, count) for part, count in counts.items()
            },
            "_generate_examples": lambda self: None,
        }
        builder = type(name, (tfds.core.GeneratorBasedBuilder,), methods)
        builder(data_dir=root, file_format="array_record").download_and_prepare()

    prepare("Whole", {"train": 30})
    prepare("Three", {"train": 30, "validation": 9, "test": 12})
    prepare("Secret", {"train": 30, "validation": 9, "test": 12}, unlabelled=("test",))
    prepare("Ragged", {"train": 12, "test": 6}, shape=(None, None, 3))
    return root


def streamed_split(streamed, split):
    """Returns the images and labels of a split as evaluation gets them."""
    batches = list(streamed.evaluation_batches(split, batch_size=16))
    images, labels, mask, _ = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return images[mask], labels[mask]


def assert_same(name, options, whole_images=True):
    held, streamed = data.load(name, options), data.stream(name, options)
    assert streamed.sizes == held.sizes
    assert streamed.class_names == held.class_names
    assert streamed.image_shape == held.image_shape
    assert (streamed.mean, streamed.std) == (held.mean, held.std)
    for split in ("train", "validation", "test"):
        if not held.sizes[split]:
            continue
        images, labels = streamed_split(streamed, split)
        np.testing.assert_array_equal(labels, getattr(held, split).labels)
        if whole_images:
            np.testing.assert_array_equal(images, getattr(held, split).images)
    return held


# One row for every field that both memories have -> layout of the folder, values of fields.
TABLE = {
    "defaults": ("flat", {}),
    "data.validation": ("flat", {"validation": 0.3}),
    "data.validation, none": ("flat", {"validation": 0.0}),
    "data.test": ("flat", {"test": 0.4}),
    "data.split_seed": ("flat", {"split_seed": 3}),
    "data.labels_per_class": ("flat", {"labels_per_class": 3}),
    "data.image_size, larger": ("flat", {"image_size": (16, 18)}),
    "data.image_size, that of the images": ("flat", {"image_size": (12, 10)}),
    "a grey set": ("grey", {}),
    "a test folder": ("test", {}),
    "a validation folder": ("val", {}),
    "all folders": ("both", {}),
    "all folders, few labels": ("both", {"labels_per_class": 2}),
}


@pytest.mark.parametrize("row", TABLE)
def test_both_memories_read_a_folder_alike(folders, row):
    layout, fields = TABLE[row]
    # A stream crops images and does not distort them: the pixels differ, the splits and
    # statistics are the same.
    distorted = fields.get("image_size", (12, 10)) != (12, 10)
    assert_same(f"folder:{folders / layout}", SourceOptions(**fields), not distorted)


@pytest.mark.parametrize("name", ["whole", "three", "secret"])
@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_both_memories_read_a_prepared_set_alike(prepared, name, validation):
    options = SourceOptions(data_dir=str(prepared), validation=validation)
    held = assert_same(name, options)
    share = round(30 * validation)
    expected = {
        "whole": (24 - round(24 * validation), round(24 * validation), 6),
        "three": (30, 9, 12),
        "secret": (30 - share, share, 9),  # Its test split has no labels.
    }
    assert tuple(held.sizes.values()) == expected[name]


def test_both_memories_leave_out_the_same_of_a_split(folders, tmp_path):
    write_classes(tmp_path / "train", 12)
    write_classes(tmp_path / "val", 8, 1)
    write_classes(tmp_path / "test", 8, 1)
    (tmp_path / "train" / "bee" / "01.png").write_bytes(b"no image")
    options = SourceOptions(skip_corrupt=True)
    held, streamed = (read(f"folder:{tmp_path}", options) for read in (data.load, data.stream))
    images, labels = streamed_split(streamed, "train")
    np.testing.assert_array_equal(images, held.train.images)
    np.testing.assert_array_equal(labels, held.train.labels)
    assert len(labels) == 11 and (streamed.mean, streamed.std) == (held.mean, held.std)


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_images_of_several_sizes_need_an_image_size(folders, prepared, tmp_path, read):
    write_classes(tmp_path, 8)
    write(tmp_path / "bee" / "99.png", 20, 12)
    for name in (f"folder:{tmp_path}", f"tfds:{prepared / 'ragged' / '1.0.0'}"):
        with pytest.raises(DataError, match=r"images must agree in size; give --config\.data\.im"):
            read(name, SourceOptions(test=0.3))
        assert read(name, SourceOptions(test=0.3, image_size=(9, 9))).image_shape == (9, 9, 3)


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("described_by", ["exif", "xmp"])
def test_photos_that_lie_count_as_they_stand(tmp_path, described_by):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lies = {"exif": exif} if described_by == "exif" else {"xmp": XMP}
    for number in range(8):
        path = tmp_path / CLASSES[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        image = PIL.Image.new("RGB", (10, 12) if number < 4 else (12, 10), (number, 0, 0))
        image.save(path, **({} if number < 4 else lies))
    held = assert_same(f"folder:{tmp_path}", SourceOptions())
    assert held.image_shape == (12, 10, 3)


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_an_image_that_gets_another_size_is_found_when_it_is_read(tmp_path, skip_corrupt):
    write_classes(tmp_path, 12)
    streamed = data.stream(f"folder:{tmp_path}", SourceOptions(skip_corrupt=skip_corrupt))
    for path in tmp_path.rglob("*.png"):
        write(path, 30, 20)
    with pytest.raises(DataError, match=r"is 30 x 20 pixels, .* is 12 x 10 \(height x w"):
        list(streamed.evaluation_batches("test", batch_size=4))


def test_a_file_without_a_name_in_utf_8_is_one_like_others(tmp_path):
    write_classes(tmp_path, 12)
    for path in list(tmp_path.rglob("*.png"))[:3]:
        os.rename(path, os.fsencode(path.with_suffix("")) + b"\xff.png")
    assert_same(f"folder:{tmp_path}", SourceOptions())


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_classes_are_counted_after_images_are_held_out(tmp_path, caplog, read):
    write_classes(tmp_path, 4)
    with pytest.raises(DataError, match="training images of 1 class"):
        read(f"folder:{one_image_each(tmp_path / 'two', 2)}", SourceOptions(0.0, test=0.5))
    read(f"folder:{one_image_each(tmp_path / 'four', 4)}", SourceOptions(0.0, test=0.5))
    assert "no training images of 2 of 4 classes" in caplog.text


def one_image_each(root, classes):
    for number in range(classes):
        (root / f"class{number}").mkdir(parents=True)
        write(root / f"class{number}" / "1.png", 8, 8)
    return root


def test_small_images_are_refused_in_a_stream_too(tmp_path):
    write_classes(tmp_path, 8, height=7)
    for read in (data.load, data.stream):
        with pytest.raises(DataError, match="7 x 10 pixels; expected at least 8 x 8"):
            read(f"folder:{tmp_path}")


def test_statistics_of_a_large_stream_are_sampled_by_the_seed(folders, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE", 10)
    name = f"folder:{folders / 'flat'}"
    held = data.load(name)
    seeds = [data.stream(name, SourceOptions(split_seed=seed, test=0.2)) for seed in (0, 0, 1)]
    assert seeds[0].mean == seeds[1].mean != seeds[2].mean
    for streamed in seeds:
        # The tolerance is five deviations of the mean of 10 images with 120 uniform pixels.
        np.testing.assert_allclose(streamed.mean, held.mean, atol=5 * 0.29 / np.sqrt(1200))


def test_usual_statistics_are_taken_in_both(prepared, monkeypatch):
    known = {"whole": ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))}
    monkeypatch.setattr("kdjax.data.registry._STATISTICS", known)
    for read in (data.load, data.stream):
        found = read("whole", SourceOptions(data_dir=str(prepared)))
        assert (found.mean, found.std) == known["whole"]


def test_labels_are_read_once_and_only_where_they_decide(prepared, monkeypatch):
    options = SourceOptions(data_dir=str(prepared))
    sizes = data.stream("whole", options).sizes

    def refuse(self):
        raise AssertionError("all records are read")

    monkeypatch.setattr(records.PreparedRecords, "all", refuse)
    assert data.stream("whole", options).sizes == sizes
    assert data.stream("three", options).sizes == {"train": 30, "validation": 9, "test": 12}


@pytest.mark.parametrize("own", [True, False])
def test_labels_out_of_range_are_refused(prepared, monkeypatch, own):
    pair = records.PreparedRecords._pair
    monkeypatch.setattr(
        records.PreparedRecords, "_pair", lambda self, record: (pair(self, record)[0], 3)
    )
    # If the set has its own splits, a label is checked only when its image is read.
    options = SourceOptions(data_dir=str(prepared), split_seed=7, image_size=(9, 9))
    with pytest.raises(DataError, match=r"label 3 .*is outside \[0, 3\)"):
        streamed = data.stream("three" if own else "whole", options)
        list(streamed.evaluation_batches("test", batch_size=8))


def test_crops_of_a_stream_are_moved_as_those_in_memory(tmp_path):
    pixels = np.zeros((12, 10), np.uint8)
    pixels[5, 3] = 255
    for number in range(200):
        path = tmp_path / "train" / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(path)
    streamed = data.stream(f"folder:{tmp_path}", SourceOptions(test=0.01, validation=0.0))
    batches = streamed.train_batches(
        seed=1, first_step=0, batch_size=198, flip=False, resized_crop=False, crop_padding=2
    )
    images, _, mask, _ = next(batches)
    batches.close()
    rows, columns = np.nonzero(images[mask][..., 0])[1:]
    assert len(rows) == 198 and set(rows) == {3, 4, 5, 6, 7} and set(columns) == {1, 2, 3, 4, 5}


# Messages


def said(caplog, name, read=data.load, **fields):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="kdjax.data"):
        read(name, SourceOptions(**fields))
    return caplog.messages


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_what_was_found_in_a_folder_is_said(folders, caplog, read):
    name = f"folder:{folders / 'both'}"
    own = "has a validation split of its own: nothing is held out of train for it"
    assert said(caplog, name, read) == [
        f"{name}: 40 images in train, 8 images in valid, 12 images in test, of 3 classes: "
        "ape, bee, cow",
        f"{name} {own}",
    ]
    name = f"folder:{folders / 'val'}"
    assert said(caplog, name, read)[1:] == [
        f"{name} {own}",
        f"{name} has no test split: config.data.test = 0.2 of train is held out",
    ]
    name = f"folder:{folders / 'flat'}"
    assert said(caplog, name, read) == [
        f"{name}: 40 images in its folders, of 3 classes: ape, bee, cow"
    ]


@pytest.mark.parametrize("read", [data.load, data.stream])
def test_a_share_that_is_not_used_is_warned_of(folders, caplog, read):
    name = f"folder:{folders / 'both'}"
    fields = {"test": 0.3, "validation": 0.25}
    warnings = [
        f"{name} has a test split of its own: config.data.test = 0.3 is not used",
        f"{name} has a validation split of its own: config.data.validation = 0.25 is not used",
    ]
    assert set(warnings) <= set(said(caplog, name, read, **fields))
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 2
    for asked in ({}, {"test": 0.0, "validation": 0.0}):
        said(caplog, name, read, **asked)
        assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_validation_split_that_is_used_for_test_is_said(prepared, caplog):
    messages = said(caplog, "secret", data_dir=str(prepared))
    assert any("its validation split is the test split" in message for message in messages)

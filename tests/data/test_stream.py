"""Streams: the same batches for every reader and from every starting step."""

import io
import logging
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import data
from kdjax.data import DataError, SourceOptions, records
from kdjax.data.crops import central_crop, random_box

TRAIN, TEST = 37, 11
SIZE = (224, 192)


def jpeg(rng):
    """Returns an image of a random size, as bytes."""
    height, width = rng.integers(180, 300, 2)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared TFDS set with images of many sizes."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class LargeSet(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["ape", "bee", "cow"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0), "validation": self._generate_examples(1)}

        def _generate_examples(self, part):
            rng = np.random.default_rng(part)
            for index in range((TRAIN, TEST)[part]):
                yield index, {"image": io.BytesIO(jpeg(rng)), "label": index % 3}

    root = tmp_path_factory.mktemp("tfds")
    LargeSet(data_dir=root, file_format="array_record").download_and_prepare()
    return root


@pytest.fixture
def streamed(prepared):
    options = SourceOptions(data_dir=str(prepared), validation=0.0, image_size=SIZE)
    return data.stream("large_set", options)


def take(streamed, count, **settings):
    batches = streamed.train_batches(**{"seed": 5, "first_step": 0, "batch_size": 8, **settings})
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for array, expected in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_what_a_stream_says_of_itself(streamed):
    assert streamed.sizes == {"train": TRAIN, "validation": 0, "test": TEST}
    assert streamed.image_shape == (224, 192, 3) and streamed.num_classes == 3
    images, labels, mask, indices = take(streamed, 1)[0]
    assert images.shape == (8, *SIZE, 3) and images.dtype == np.uint8
    assert labels.dtype == indices.dtype == np.int32 and mask.dtype == bool


def test_a_stream_starts_anywhere(streamed):
    whole = take(streamed, 11)
    for first in range(9):
        assert_equal(take(streamed, 2, first_step=first), whole[first : first + 2])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_batch_like_cards(streamed, processes):
    whole = take(streamed, 6)
    for process in range(processes):
        own = take(streamed, 6, process=process, processes=processes)
        assert_equal(own, [type(b)(*(array[process::processes] for array in b)) for b in whole])


def test_workers_and_threads_change_nothing(streamed):
    whole = take(streamed, 6)
    assert_equal(take(streamed, 6, threads=1), whole)
    assert_equal(take(streamed, 6, workers=2), whole)


def test_a_prepared_set_is_opened_by_one_thread(prepared, monkeypatch):
    """TFDS imports its parts when it opens a set, and two threads could wait for each other."""
    (folder,) = prepared.glob("large_set/*")
    found = pickle.loads(pickle.dumps(records.PreparedRecords(folder, "train", "image", "label")))
    opened, whole = [], records.open_part

    def slowly(*arguments):
        opened.append(arguments)
        time.sleep(0.05)
        return whole(*arguments)

    monkeypatch.setattr(records, "open_part", slowly)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(found.read, range(8)))
    assert len(opened) == 1
    assert read == [found.read(index) for index in range(8)]


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(streamed):
    # Without random crops and flips the pixels identify an example.
    steps = -(-TRAIN // 8)
    batches = take(streamed, 2 * steps, resized_crop=False, flip=False)
    epochs = [
        [
            image.tobytes()
            for b in part
            for image, real in zip(b.images, b.mask, strict=True)
            if real
        ]
        for part in (batches[:steps], batches[steps:])
    ]
    assert len(set(epochs[0])) == len(epochs[0]) == TRAIN
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]
    # Each example keeps its number at any position.
    numbers = [
        np.concatenate([b.indices[b.mask] for b in p]) for p in (batches[:steps], batches[steps:])
    ]
    first, second = (dict(zip(n, e, strict=True)) for n, e in zip(numbers, epochs, strict=True))
    assert first == second and sorted(first) == list(range(TRAIN))
    last = batches[steps - 1]
    assert list(last.mask) == [True] * (TRAIN % 8) + [False] * (8 - TRAIN % 8)
    assert not last.images[TRAIN % 8 :].any()


def test_seeds_differ(streamed):
    first, second = (take(streamed, 1, seed=seed)[0].images for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_evaluation_has_every_example_in_order_from_its_middle(streamed):
    batches = list(streamed.evaluation_batches("test", batch_size=4))
    assert [int(b.mask.sum()) for b in batches] == [4, 4, 3]
    records, indices = streamed.records["test"]
    for place in range(TEST):
        encoded, label = records.read(int(indices[place]))
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            factor = max(SIZE[0] / image.height, SIZE[1] / image.width) * 256 / 224
            width, height = round(image.width * factor), round(image.height * factor)
            whole = np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR))
        top, left = (height - SIZE[0]) // 2, (width - SIZE[1]) // 2
        expected = whole[top : top + SIZE[0], left : left + SIZE[1]]
        np.testing.assert_array_equal(batches[place // 4].images[place % 4], expected)
        assert batches[place // 4].labels[place % 4] == label


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2**32))
def test_random_boxes_lie_inside_and_have_the_promised_area(width, height, seed):
    left, top, right, bottom = random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    if min(w, h) > 20:  # Rounding to pixels matters little.
        assert 0.7 <= w / h <= 1.43
        if 0.5 < width / height < 2:  # In a narrow image even the largest box is small.
            assert w * h / (width * height) >= 0.07


def test_a_crop_of_an_image_smaller_than_it():
    image = PIL.Image.new("RGB", (9, 30))
    assert central_crop(image, (64, 48)).size == (48, 64)


def test_splits_without_test_and_with_validation(tmp_path):
    for number in range(20):
        path = tmp_path / "set" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(np.random.default_rng(number)))
    name = f"folder:{tmp_path / 'set'}"
    chosen = SourceOptions(validation=0.25, test=0.2, image_size=(16, 16))
    streamed = data.stream(name, chosen)
    assert streamed.sizes == {"train": 12, "validation": 4, "test": 4}
    parts = [set(indices) for _, indices in streamed.records.values()]
    assert set.union(*parts) == set(range(20))
    before = streamed.fingerprint()
    os.utime(path, (1, 1))
    assert data.stream(name, chosen).fingerprint() == before
    path.write_bytes(jpeg(np.random.default_rng(99)))
    assert data.stream(name, chosen).fingerprint() != before


@pytest.fixture
def broken(tmp_path):
    """A folder in which one image does not decode."""
    for number in range(12):
        path = tmp_path / "set" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(np.random.default_rng(number)))
    path.write_bytes(b"no image")
    return path


def options(**more):
    return SourceOptions(validation=0.0, test=0.1, image_size=(16, 16), **more)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_named(broken, workers):
    broken.write_bytes(jpeg(np.random.default_rng(11)))
    streamed = data.stream(f"folder:{broken.parent.parent}", options())
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{broken.name} does not decode as an image"):
        take(streamed, 3, batch_size=4, workers=workers)
        list(streamed.evaluation_batches("test", batch_size=4))


def test_each_file_is_looked_at_once(broken, monkeypatch):
    """A folder may have a million files, and its fingerprint is asked for more than once."""
    looked_at = []
    stamp = records._stamp
    monkeypatch.setattr(records, "_stamp", lambda path: looked_at.append(path) or stamp(path))
    streamed = data.stream(f"folder:{broken.parent.parent}", options(skip_corrupt=True))
    assert streamed.fingerprint() == streamed.fingerprint()
    assert sorted(map(Path, looked_at)) == sorted(broken.parent.parent.glob("*/*"))


def test_an_image_that_does_not_decode_is_left_out_where_that_is_asked(broken, caplog):
    streamed = data.stream(f"folder:{broken.parent.parent}", options(skip_corrupt=True))
    with caplog.at_level(logging.WARNING):
        batches = take(streamed, 3, batch_size=4)
        batches += list(streamed.evaluation_batches("test", batch_size=1))
    assert sum(int(b.mask.sum()) for b in batches) == 11
    assert f"{broken.name} does not decode" in caplog.text


@pytest.mark.parametrize("name", ["digits", "npz:x.npz"])
def test_small_sets_are_not_streamed(name):
    with pytest.raises(DataError, match="cannot be streamed"):
        data.stream(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("zip:x.zip", "unknown kind of dataset 'zip'"), ("cifar11", r"did you mean cifar10\?")],
)
def test_a_wrong_name_has_the_message_of_a_set_in_memory(name, message, tmp_path):
    choices = options(data_dir=str(tmp_path))
    for read in (data.stream, data.load):
        with pytest.raises(DataError, match=message):
            read(name, choices)


def test_a_missing_set_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"dataset 'imagenet2012' is not in"):
        data.stream("imagenet2012", SourceOptions(data_dir=str(tmp_path)))


def test_a_record_file_that_was_cut_short_is_named(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    path = next((tmp_path / "copy").rglob("*train.array_record*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="large_set"):
        streamed = data.stream("large_set", SourceOptions(data_dir=str(tmp_path / "copy")))
        take(streamed, 5)


def test_little_is_decoded_ahead(streamed, monkeypatch):
    from kdjax.data import streamed as module

    decoded = []
    plain = module.decode_with
    monkeypatch.setattr(module, "decode_with", lambda *a: decoded.append(1) or plain(*a))
    batches = streamed.train_batches(seed=0, first_step=0, batch_size=4)
    next(batches)
    time.sleep(0.5)
    # One batch was taken, one is assembled, and two are in threads.
    assert len(decoded) <= 4 * 4
    batches.close()


def test_the_images_of_a_batch_can_be_changed(streamed):
    for batch_size in (1, 2):
        (batch,) = take(streamed, 1, batch_size=batch_size)
        batch.images[...] = 7


def test_what_travels_to_a_worker_holds_no_open_file(streamed):
    take(streamed, 1)
    records, _ = streamed.records["train"]
    assert pickle.loads(pickle.dumps(records)).read(0) == records.read(0)

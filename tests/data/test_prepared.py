"""Sets prepared by TFDS, read without TensorFlow."""

import io
import json
import shutil

import numpy as np
import PIL.Image
import pytest

from kdjax import data
from kdjax.data.division import SourceOptions


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
    """The data directory of a small set, prepared as array_record without TensorFlow."""
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


def test_a_prepared_set_is_cached(prepared, forbid_decoding):
    options = SourceOptions(data_dir=str(prepared))
    first = data.load("tiny_set", options)
    forbid_decoding()
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


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("read", [data.load, data.stream])
def test_a_damaged_file_is_named(prepared, tmp_path, monkeypatch, read, part):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "cache"))
    root = shutil.copytree(prepared, tmp_path / "sets")
    (file,) = root.rglob(f"*-{part}.array_record*")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(data.DataError, match=rf"1\.0\.0, {part}.* cannot be read: "):
        read("tiny_set", SourceOptions(data_dir=str(root)))

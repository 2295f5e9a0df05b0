"""A student is loaded from its workdir alone, and equals the one that was evaluated."""

import dataclasses
import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

import kdjax
from kdjax import data, models
from kdjax.deploy import Preprocess, find_images
from kdjax.models import StudentEnsemble
from kdjax.train.run.workdir import WorkdirError
from kdjax.train.tasks import stored
from kdjax.train.tasks.trained_on import TrainedOn


def opened(file):
    with PIL.Image.open(file) as image:
        return image.copy()


def logits(student, images):
    return student.network.apply(student.variables, images, train=False).logits


def test_importing_kdjax_starts_nothing():
    code = (
        "import sys, kdjax\n"
        "heavy = [name for name in ('jax', 'flax', 'numpy') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "try:\n    kdjax.load_studnt\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "module 'kdjax' has no attribute 'load_studnt'\n", done.stderr


@pytest.mark.parametrize("number", [1, 2])
def test_a_student_answers_as_in_its_ensemble(trained, moved, number):
    path, experiment = trained
    pixels = experiment.dataset.test.images
    student = kdjax.load_student(moved[0], student=number, seed=0)
    assert (student.name, student.run) == (f"student {number}, distilled", "ensemble-seed0")
    assert student.step == 12
    assert student.widths == experiment.student_widths[number - 1]
    assert student.class_names == ("apple", "birch", "cloud", "daisy")
    ensemble = StudentEnsemble(experiment.architecture, experiment.student_widths)
    variables = stored.restore(path, "ensemble-seed0", "last").variables
    normalized = (pixels / 255.0 - experiment.dataset.mean) / experiment.dataset.std
    expected = ensemble.apply(variables, normalized.astype(np.float32)).logits[number - 1]
    found = logits(student, student.preprocess(pixels))
    assert len(np.unique(np.argmax(found, -1))) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_loading_says_nothing(trained, caplog):
    with caplog.at_level("WARNING"):
        kdjax.load_student(trained[0])
    assert not caplog.records


def test_files_arrays_and_images_are_preprocessed_alike(trained, photos):
    preprocess = kdjax.load_student(trained[0]).preprocess
    files = sorted((photos / "test" / "birch").iterdir())
    expected = preprocess(np.stack([np.asarray(opened(file)) for file in files])[..., None])
    assert expected.shape == (8, 8, 8, 1)
    assert expected.dtype == np.float32
    dataset = trained[1].dataset
    first = np.asarray(PIL.Image.open(files[0])) / 255.0
    by_hand = (first - dataset.mean[0]) / dataset.std[0]
    np.testing.assert_allclose(expected[0, ..., 0], by_hand, rtol=1e-5, atol=1e-6)
    for images in (
        files,
        [str(file) for file in files],
        [file.read_bytes() for file in files],
        [opened(file) for file in files],
        [np.asarray(opened(file)) for file in files],
        [jnp.asarray(opened(file)) for file in files],
        jnp.stack([jnp.asarray(opened(file)) for file in files])[..., None],
    ):
        np.testing.assert_array_equal(preprocess(images), expected)
    np.testing.assert_array_equal(preprocess(files[0]), expected[:1])
    assert preprocess([]).shape == (0, 8, 8, 1)
    # Colour images become grey, and other sizes are resized.
    assert preprocess(np.zeros((2, 20, 12, 3), np.uint8)).shape == (2, 8, 8, 1)
    with pytest.raises(ValueError, match="dtype float64: expected uint8, 0 to 255"):
        preprocess(np.zeros((2, 8, 8, 1)))


@pytest.mark.parametrize("shape", [(0, 8, 1), (8, 0), (2, 8, 0, 3)])
def test_an_array_without_pixels_is_refused(shape):
    preprocess = Preprocess((8, 8, 1), (0.5,), (0.5,), "device")
    with pytest.raises(ValueError, match=r"an image has shape \(.*0.*\): it has no pixels"):
        preprocess(np.zeros(shape, np.uint8))


def test_an_image_of_pillow_is_read_as_its_file(trained, tmp_path):
    preprocess = kdjax.load_student(trained[0]).preprocess
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    turned = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("clear.png", "turned.png"):
        with PIL.Image.open(tmp_path / name) as image:
            np.testing.assert_array_equal(preprocess(image), preprocess(tmp_path / name))
            image.getpixel((0, 0))  # The image is still open.
    deep = PIL.Image.fromarray(np.zeros((8, 8), np.uint16))
    with pytest.raises(data.DataError, match="more than 8 bits a channel"):
        preprocess(deep)


@pytest.mark.parametrize(
    ("student", "seed", "name", "run", "place"),
    [
        (1, None, "compact, distilled", "distil-seed0", 1),
        ("compact", 1, "compact, distilled", "distil-seed1", 1),
        ("compact, alone", 0, "compact, alone", "distil-seed0", 2),
        ("3", None, "uniform, distilled", "distil-seed0", 3),
        ("uniform", None, "uniform, distilled", "distil-seed0", 3),
        ("teacher", None, "teacher", "teacher-seed0", 1),
    ],
)
def test_networks_of_a_search_have_names(searched, student, seed, name, run, place):
    path, experiment = searched
    found = kdjax.load_student(path, student, seed=seed)
    assert (found.name, found.run) == (name, run)
    if name == "teacher":
        assert found.widths == experiment.architecture.widths
    else:
        assert found.widths == experiment.student_widths[place - 1]
    original = stored.restore(path, run, "last").variables
    chex.assert_trees_all_equal(
        found.variables, {kind: tree[f"student_{place}"] for kind, tree in original.items()}
    )
    # The variables fit the network.
    shapes = jax.eval_shape(lambda: models.initialize(found.network, 0, (8, 8, 1)))
    chex.assert_trees_all_equal_shapes(found.variables, shapes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"student": 3},
            r"student is 3: this workdir has 1 to 2, by name 'student 1', 'student 2'",
        ),
        ({"student": 0}, "student is 0: the first is 1"),
        ({"student": "00"}, "student is '00': the first is 1"),
        ({"student": "teacher"}, "student is 'teacher': this workdir has 1 to 2"),
        ({"seed": 7}, "seed is 7: student 1, distilled was trained with 0, 1"),
        ({"checkpoint": "first"}, "checkpoint is 'first': allowed are 'last' and 'best'"),
        (
            {"checkpoint": "best"},
            "has no 'best' checkpoint of student 1, distilled with seed 0 yet",
        ),
    ],
)
def test_what_is_not_there_is_refused(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        kdjax.load_student(trained[0], **arguments)


def test_a_teacher_from_elsewhere_is_named(searched, moved, tmp_path):
    path = moved[0]
    config = json.loads((searched[0] / "config.json").read_text())
    config["teacher"]["workdir"] = "runs/big"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the teacher of this workdir is in runs/big"):
        kdjax.load_student(path, "teacher")


def test_a_workdir_without_data_json_is_one_error(moved):
    (moved[0] / "data.json").unlink()
    with pytest.raises(WorkdirError, match=r"data.json is missing: nothing has been trained there"):
        kdjax.load_student(moved[0])


@pytest.mark.parametrize(
    "change", [{"std": [0.0]}, {"mean": 3}, {"memory": "disk"}, {"image_shape": [8]}]
)
def test_a_damaged_data_json_is_one_error(moved, change):
    file = moved[0] / "data.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(WorkdirError, match=r"data.json is damaged"):
        kdjax.load_student(moved[0])


def test_streamed_images_are_cropped_as_in_evaluation(photos):
    """Files have 8 x 8 pixels and networks read 12 x 10: the centre crop of a resized image."""
    streamed = data.stream(f"folder:{photos}", data.SourceOptions(image_size=(12, 10)))
    (expected,) = streamed.evaluation_batches("test", batch_size=30)
    described = TrainedOn.of(streamed)
    assert (described.image_shape, described.memory) == ((12, 10, 1), "stream")
    preprocess = Preprocess(described.image_shape, described.mean, described.std, described.memory)
    files = find_images([str(photos / "test")])
    np.testing.assert_array_equal(preprocess.pixels(files), expected.images)
    # Resizing alone would give other pixels.
    resized = dataclasses.replace(preprocess, memory="device")
    assert (resized.pixels(files) != expected.images).any()


def test_data_json_holds_what_the_dataset_is(trained):
    path, experiment = trained
    stored = json.loads((path / "data.json").read_text())
    dataset = experiment.dataset
    assert stored == {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "class_names": list(dataset.class_names),
        "image_shape": [8, 8, 1],
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "memory": "device",
    }
    assert TrainedOn.of(dataset).mean == tuple(stored["mean"])

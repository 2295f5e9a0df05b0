"""`kdjax evaluate`: numbers by network, seed and class; data that was moved, and other data."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import PIL.Image
import pytest
from rich.console import Console

import kdjax
from kdjax import cli, report
from kdjax import config as configuration
from kdjax.data import DataError
from kdjax.train.run.workdir import WorkdirError
from kdjax.train.tasks import measures, stored
from kdjax.train.tasks.evaluate import evaluate
from kdjax.train.tasks.evaluation_data import open_other, relocate
from kdjax.train.tasks.experiment import read_dataset
from kdjax.train.tasks.trained_on import TrainedOn


def shown(summary):
    console = Console(width=120, file=io.StringIO())
    report.print_evaluation(summary, console)
    return console.file.getvalue()


def answers(path, student, seed, images):
    """Returns the classes that a student predicts, computed with its own network."""
    loaded = kdjax.load_student(path, student, seed=seed)
    pixels = loaded.preprocess(images)
    logits = loaded.network.apply(loaded.variables, pixels, train=False).logits
    return np.argmax(np.asarray(logits), -1)


@pytest.fixture(scope="module")
def evaluated(trained):
    """All networks of the trained workdir on its test split."""
    return evaluate(trained[0])


def test_every_network_is_measured_by_seed_and_class(trained, evaluated):
    path, experiment = trained
    test = experiment.dataset.test
    assert [network["name"] for network in evaluated["networks"]] == [
        "student 1, distilled", "student 2, distilled", "average of all, distilled",
        "student 1, alone", "student 2, alone", "average of all, alone",
    ]  # fmt: skip
    assert evaluated["examples"] == 30
    assert evaluated["classes"] == [
        {"name": "apple", "examples": 8},
        {"name": "birch", "examples": 8},
        {"name": "cloud", "examples": 7},
        {"name": "daisy", "examples": 7},
    ]
    for network in evaluated["networks"]:
        if network["name"].startswith("average"):
            continue
        confusion = np.zeros((4, 4), int)
        by_class = []
        for run in network["runs"]:
            found = answers(path, network["name"], run["seed"], test.images)
            assert run["accuracy"] == np.mean(found == test.labels)
            assert (run["top5"], run["step"]) == (None, 12)  # There are only four classes.
            np.add.at(confusion, (test.labels, found), 1)
            by_class.append([np.mean(found[test.labels == c] == c) for c in range(4)])
        assert network["confusion"] == confusion.tolist()
        first, second = (run["accuracy"] for run in network["runs"])
        assert network["accuracy"] == pytest.approx((first + second) / 2)
        assert network["accuracy_std"] == pytest.approx(abs(first - second) / 2**0.5)
        np.testing.assert_allclose(network["class_accuracy"], np.mean(by_class, axis=0))


def test_the_average_is_that_of_the_students(trained, evaluated):
    path, experiment = trained
    test = experiment.dataset.test
    scores = []
    for number in (1, 2):
        student = kdjax.load_student(path, f"student {number}, alone", seed=0)
        pixels = student.preprocess(test.images)
        scores.append(student.network.apply(student.variables, pixels, train=False).logits)
    expected = np.mean(np.argmax(np.asarray(sum(scores)), -1) == test.labels)
    average = evaluated["networks"][5]
    assert average["runs"][0]["accuracy"] == expected


def test_a_network_that_knows_one_class_is_named(evaluated):
    remark = "student 2, distilled, seed 1, only predicts class 'cloud'"
    assert remark in evaluated["remarks"]
    # Its logits are larger than the other student's, so the average predicts the same class.
    assert "average of all, distilled, seed 1, only predicts class 'cloud'" in evaluated["remarks"]
    # Seed 0 predicts several classes, see test_student.py.
    assert not any(line.startswith("student 2, distilled, seed 0") for line in evaluated["remarks"])
    text = shown(evaluated)
    assert remark in text
    assert "30 images. Accuracy of the last checkpoint, %; seeds 0, 1; step 12" in text
    assert "this experiment has not finished: ensemble-seed0 at step 12, ensemble-seed1" in text
    first = evaluated["networks"][0]
    assert f"{100 * first['accuracy']:.2f} ± {100 * first['accuracy_half_width']:.2f}" in text


def test_one_seed_has_no_deviation_and_json_no_nan(searched, tmp_path, capsys):
    out = tmp_path / "numbers.json"
    arguments = ["evaluate", f"--workdir={searched[0]}", "--student=teacher", f"--out={out}"]
    assert cli.main(arguments) == 0
    assert "±" not in capsys.readouterr().out

    def refuse(name):
        raise AssertionError(name)

    (network,) = json.loads(out.read_text(), parse_constant=refuse)["networks"]
    assert network["name"] == "teacher"
    assert [run["run"] for run in network["runs"]] == ["teacher-seed0"]
    assert network["accuracy_std"] is None


def test_networks_of_a_search_are_named(searched):
    path, experiment = searched
    summary = evaluate(path)
    assert [(n["name"], len(n["runs"])) for n in summary["networks"]] == [
        ("compact, distilled", 2),
        ("compact, alone", 2),
        ("uniform, distilled", 2),
        ("teacher", 1),
    ]
    test = experiment.dataset.test
    for network in summary["networks"]:
        found = answers(path, network["name"], 0, test.images)
        assert network["runs"][0]["accuracy"] == np.mean(found == test.labels)
    both = evaluate(path, student="compact")
    assert [n["name"] for n in both["networks"]] == ["compact, distilled", "compact, alone"]
    assert both["networks"] == summary["networks"][:2]


def test_a_moved_workdir_with_its_data_elsewhere(evaluated, moved):
    path, data = moved
    with pytest.raises(DataError, match=r"gone': there is no such folder.*say where with --data"):
        evaluate(path)
    found = evaluate(path, data=str(data))
    assert found["networks"] == evaluated["networks"]
    assert found["data"] == {"name": f"folder:{data}", "other": False}
    assert evaluate(path, data=f"folder:{data}", student=1)["examples"] == 30


@pytest.mark.parametrize(
    ("trained_on", "place", "expected"),
    [
        ("cifar10", "tfds", ("cifar10", "tfds")),
        ("cifar10", "tfds/cifar10/3.0.2", ("tfds:tfds/cifar10/3.0.2", "")),
        ("cifar10", "photos", ("folder:photos", "")),
        ("folder:old", "photos", ("folder:photos", "")),
        ("npz:old.npz", "set.npz", ("npz:set.npz", "")),
        ("cifar10", "npz:not/there.npz", ("npz:not/there.npz", "")),
        ("cifar10", "digits", ("digits", "")),
    ],
)
def test_a_place_is_a_name_or_a_path(tmp_path, monkeypatch, trained_on, place, expected):
    monkeypatch.chdir(tmp_path)
    for folder in ("tfds/cifar10/3.0.2", "photos/a", "digits"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tfds/cifar10/3.0.2/dataset_info.json").write_text("{}")
    (tmp_path / "set.npz").write_bytes(b"")
    config = configuration.default()
    config.data.name = trained_on
    relocate(config, place)
    assert (config.data.name, config.data.data_dir) == expected


def test_of_other_data_all_images_count_however_few_labels_were_trained_on(tmp_path):
    config = configuration.first_run("train")
    trained_on = TrainedOn.of(read_dataset(config))
    assert config.data.labels_per_class == 20
    images, labels = np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 10
    np.savez(tmp_path / "few.npz", train_images=images, train_labels=labels)
    opened = open_other(config, str(tmp_path / "few.npz"), trained_on)
    assert sum(opened.dataset.sizes.values()) == 60


def test_arrays_are_other_data_of_networks_trained_from_a_stream(tmp_path):
    config = configuration.first_run("train")
    trained_on = TrainedOn.of(read_dataset(config))
    config.data.update(name="folder:photos", memory="stream")
    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "more.npz", train_images=images, train_labels=labels)
    opened = open_other(config, str(tmp_path / "more.npz"), trained_on)
    assert sum(opened.dataset.sizes.values()) == 20


def test_data_of_the_same_name_is_not_said_to_be_other(tmp_path):
    config = configuration.first_run("train")
    trained_on = TrainedOn.of(read_dataset(config))
    (remark,) = open_other(config, "digits", trained_on).remarks
    assert remark.startswith("digits has the name of the data that the networks were trained on")
    assert "Without --other_data only its test split is evaluated" in remark


def test_changed_data_is_refused_unless_it_is_called_other(evaluated, moved):
    path, data = moved
    (data / "test" / "apple" / "000.png").unlink()
    with pytest.raises(WorkdirError, match=r"run on other data.*name it with --other_data"):
        evaluate(path, data=str(data))
    with pytest.raises(ValueError, match=r"give one of them"):
        evaluate(path, data=str(data), other_data=str(data))
    found = evaluate(path, other_data=str(data), student=1)
    # All images are used: 90 for training and the 29 that are left for testing.
    assert (found["examples"], found["split"]) == (119, "all")
    name = json.loads((path / "data.json").read_text())["name"]
    assert found["remarks"][0] == (
        f"folder:{data} is other data than the networks were trained on ({name}): all of its 119 "
        "images are evaluated"
    )


def test_other_data_is_seen_as_the_networks_learnt_to_see(trained, photos, tmp_path):
    """The other data has some of the classes, in another order, and larger images in colour."""
    path, _ = trained
    images, expected = [], []
    for name, label in (("daisy", 3), ("birch", 1)):
        (tmp_path / name).mkdir()
        for file in sorted((photos / "test" / name).iterdir()):
            with PIL.Image.open(file) as image:
                larger = image.convert("RGB").resize((12, 10))
            larger.save(tmp_path / name / file.name)
            images.append(np.asarray(larger))
            expected.append(label)
    found = evaluate(path, student="student 1, alone", other_data=str(tmp_path))
    assert [entry["examples"] for entry in found["classes"]] == [0, 8, 0, 7]
    (network,) = found["networks"]
    for run in network["runs"]:
        given = answers(path, "student 1, alone", run["seed"], images)
        assert run["accuracy"] == pytest.approx(np.mean(given == np.array(expected)), abs=0.07)
    assert network["class_accuracy"][0] is network["class_accuracy"][2] is None
    shutil.rmtree(tmp_path / "birch")  # Images of a single class are enough.
    alone = evaluate(path, student="student 1, alone", other_data=str(tmp_path))
    assert [entry["examples"] for entry in alone["classes"]] == [0, 0, 0, 7]
    assert alone["networks"][0]["class_accuracy"][3] == network["class_accuracy"][3]
    shutil.move(tmp_path / "daisy", tmp_path / "tulip")
    with pytest.raises(DataError, match=r"classes that the networks do not know: 'tulip'; theirs"):
        evaluate(path, other_data=str(tmp_path))


@pytest.mark.parametrize("memory", ["device", "stream"])
def test_one_image_of_other_data_is_enough(trained, photos, tmp_path, memory):
    (tmp_path / "daisy").mkdir()
    shutil.copy(next((photos / "test" / "daisy").iterdir()), tmp_path / "daisy")
    described = TrainedOn.of(trained[1].dataset)
    config = configuration.default()
    config.data.memory = memory
    opened = open_other(config, str(tmp_path), described)
    assert opened.dataset.sizes == {"train": 1, "validation": 0, "test": 0}
    if memory == "device":
        found = evaluate(trained[0], other_data=str(tmp_path), student="student 1, alone")
        assert [entry["examples"] for entry in found["classes"]] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "split is 'tset': allowed are 'train', 'validation', 'test'"),
        ({"checkpoint": "tset"}, "checkpoint is 'tset': allowed are 'last', 'best'"),
    ],
)
def test_a_word_that_is_not_allowed_is_named_with_those_that_are(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(trained[0], **arguments)


def test_an_output_that_is_not_finite_has_no_accuracy(trained, monkeypatch):
    restore = stored.restore

    def broken(*arguments, **named):
        found = restore(*arguments, **named)
        variables = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), found.variables)
        return dataclasses.replace(found, variables=variables)

    monkeypatch.setattr(stored, "restore", broken)
    message = "student 1, alone of independent-seed0: its output is not finite"
    with pytest.raises(ArithmeticError, match=message):
        evaluate(trained[0], student="student 1, alone")


def test_the_command_draws_what_it_measured(trained, moved, capsys):
    path, data = moved
    assert cli.main(["evaluate", f"--workdir={path}", f"--data={data}", "--student=2"]) == 0
    assert f"Figures: {path / 'report' / 'confusion'}" in capsys.readouterr().out
    figures = sorted((path / "report" / "confusion").iterdir())
    names = [figure.name for figure in figures]
    assert names == ["test-student-2-alone.png", "test-student-2-distilled.png"]
    assert figures[0].read_bytes().startswith(b"\x89PNG")


def test_figures_of_other_data_and_of_the_best_checkpoint_have_their_own_names(tmp_path):
    network = measures.mean_of_runs(
        [
            measures.of_run(np.arange(2), np.array([[0, 1], [1, 0]]), 2)
            | {"run": "a", "seed": 0, "step": 1}
        ]
    )
    summary = {
        "split": "all",
        "checkpoint": "best",
        "data": {"name": "folder:/of/this year/", "other": True},
        "classes": [{"name": "a", "examples": 1}, {"name": "b", "examples": 1}],
        "networks": [{"name": "student 1, alone", **network}],
    }
    (figure,) = report.draw_confusion(summary, tmp_path)
    assert figure.name == "this-year-all-student-1-alone-best.png"


def test_runs_that_have_not_ended_or_have_no_checkpoint_are_named(moved):
    path, data = moved
    first, second = json.loads((path / "config.json").read_text())["seeds"]
    (path / "results.json").write_text(json.dumps({"seeds": [first]}))
    shutil.rmtree(path / "checkpoints" / f"independent-seed{first}")
    remarks = evaluate(path, data=str(data))["remarks"]
    assert (
        f"this experiment has not finished: ensemble-seed{second} at step 12, "
        f"independent-seed{second} at step 12"
    ) in remarks
    assert (
        "no 'last' checkpoint was found of these, which are left out: "
        f"student 1, alone, seed {first}; student 2, alone, seed {first}"
    ) in remarks


@pytest.mark.parametrize("classes", [11, 100])
def test_many_classes_are_drawn_and_printed(tmp_path, classes):
    rng = np.random.default_rng(classes)
    labels, ranks = rng.integers(0, classes, 300), rng.integers(0, classes, (300, 5))
    network = measures.mean_of_runs(
        [{"run": "a", "seed": 0, "step": 1, **measures.of_run(labels, ranks, classes)}]
    )
    summary = {
        "data": {"name": "made", "other": False},
        "split": "test",
        "checkpoint": "last",
        "examples": 300,
        "classes": [{"name": f"class [a{n}]", "examples": 3} for n in range(classes)],
        "networks": [{"name": "student 1", **network}],
        "remarks": [],
    }
    text = shown(summary)
    assert "among the top 5" in text
    assert ("accuracy of each class" in text) == ("class [a10]" in text) == (classes == 11)
    summary["classes"][0]["name"] = "$\\frac$"  # Not drawn as a formula.
    (figure,) = report.draw_confusion(summary, tmp_path)
    with PIL.Image.open(figure) as image:
        width, height = image.size
    # Tick labels of 100 classes have at least 14 pixels each.
    assert min(width, height) > 14 * classes


def test_measures_by_hand():
    labels = np.array([0, 0, 1, 1, 1, 11])
    ranks = np.zeros((6, 5), int)
    ranks[:, 0] = [0, 1, 1, 1, 0, 2]
    ranks[:, 4] = [5, 0, 5, 5, 5, 11]
    found = measures.of_run(labels, ranks, 12)
    assert found["accuracy"] == 0.5
    # For examples 1 and 5 the fifth class is right; a 0 in an earlier place is right for none.
    assert found["top5"] == pytest.approx(5 / 6)
    assert found["class_accuracy"][:3] == [0.5, pytest.approx(2 / 3), None]
    assert found["class_accuracy"][11] == 0.0
    assert found["confusion"][1][:2] == [1, 2]
    other = {**found, "accuracy": 0.9, "top5": 1.0}
    runs = [{"run": "r", "seed": s, "step": 1, **one} for s, one in enumerate((found, other))]
    both = measures.mean_of_runs(runs)
    assert both["accuracy"] == pytest.approx(0.7)
    assert both["accuracy_std"] == pytest.approx(0.4 / 2**0.5)
    assert both["accuracy_half_width"] == pytest.approx(12.7062 * 0.2, rel=1e-5)
    assert both["confusion"][1][:2] == [2, 4]
    alone = measures.mean_of_runs(runs[:1])
    assert (alone["accuracy_std"], alone["top5_std"]) == (None, None)

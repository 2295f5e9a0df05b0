"""Distillation from any teacher: where teachers come from, what they teach, what is compared."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from small import small_fields

from kdjax import atomic, costs, load_student, models
from kdjax import config as configuration
from kdjax.config import ConfigError
from kdjax.train import Teacher, distill, search, train
from kdjax.train.run import workdir
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.interrupt import Interrupted
from kdjax.train.tasks.distill_teachers import fixed, load_teachers, variables_of
from kdjax.train.tasks.evaluate import evaluate
from kdjax.train.tasks.experiment import resolve
from kdjax.train.tasks.teacher_checks import check_split, digest
from kdjax.train.tasks.teacher_outputs import TeacherOutputs

SHAPE = (8, 8, 1)
TRAIN, TEST = 81, 30  # Images of the small set; 9 more are for validation.


def distill_config(small_npz, **changes):
    """A narrow ResNet8 taught by a wider one, on the small set; ``a__b`` stands for a.b."""
    config = configuration.distill_default()
    config.update_from_flattened_dict(
        {
            **small_fields(small_npz),
            "data.crop_padding": 0,
            "teacher.network": "resnet8",
            "teacher.network_width": 0.375,
            "teacher.epochs": 1,
            "epochs": 2,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_npz):
    """A whole distillation with a teacher of its own: (config, workdir, results)."""
    config = distill_config(small_npz)
    path = tmp_path_factory.mktemp("distill") / "run"
    return config, path, distill(config, path)


def last_state(path, run):
    """Returns the variables at the end of a run."""
    return Checkpoints(path / "checkpoints" / run, read_only=True).read("last")[1]


def read_metrics(path):
    """Returns all lines of metrics, without their speeds."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]


# The whole task


def test_results_have_costs_accuracies_and_differences(finished):
    _, path, summary = finished
    assert json.loads((path / "results.json").read_text()) == summary
    (student,), (teacher,) = summary["students"], summary["teachers"]
    for entry, width in ((student, 0.25), (teacher, 0.375)):
        architecture = models.create("resnet8", 4, width=width)
        cost = costs.count(architecture, architecture.widths, SHAPE)
        assert entry["widths"] == dict(architecture.widths)
        assert (entry["params"], entry["macs"]) == (cost.params, cost.macs)
    both = [student[role]["test"] for role in ("distilled", "baseline")]
    for accuracy in (*both, teacher["test"]):
        assert accuracy * TEST == pytest.approx(round(accuracy * TEST))
    assert student["gain_points"] == pytest.approx(100 * (both[0] - both[1]))
    against = student["distilled_minus_teacher_points"]["mean"]
    assert against == pytest.approx(100 * (both[0] - teacher["test"]))
    assert summary["mean_gain"]["points"] == pytest.approx(student["gain_points"])
    assert teacher["name"] == "resnet8, trained here" and teacher["seed"] == 0


def test_evaluate_and_load_student_know_all_networks(finished):
    _, path, summary = finished
    found = {network["name"]: network["accuracy"] for network in evaluate(path)["networks"]}
    (student,) = summary["students"]
    assert found == {
        "student 1, distilled": student["distilled"]["test"],
        "student 1, alone": student["baseline"]["test"],
        "teacher": summary["teachers"][0]["test"],
    }
    stored = last_state(path, "distil-seed0")
    for name, place in (("student 1", "student_1"), ("student 1, alone", "student_2")):
        chex.assert_trees_all_equal(
            load_student(path, name).variables["params"], stored["params"][place]
        )
    assert load_student(path, "teacher").widths["stem"] == 6  # floor(.375 * 16)


def test_the_student_alone_is_the_one_of_train(finished, small_npz, tmp_path):
    """Both start with the same weights, order and images; only the networks beside them differ."""
    config, path, _ = finished
    plain = configuration.default()
    shared = dict(configuration.flatten(config))
    plain.update_from_flattened_dict(
        {name: shared[name] for name, _ in configuration.flatten(plain) if name in shared}
    )
    plain.update_from_flattened_dict(
        {"method": "independent", "student_scales": (1.0,), "weight_ramp.epochs": 1.0}
    )
    train(plain, tmp_path / "plain")
    alone = last_state(tmp_path / "plain", "independent-seed0")["params"]["student_1"]
    beside = last_state(path, "distil-seed0")["params"]["student_2"]
    chex.assert_trees_all_close(alone, beside, rtol=1e-3, atol=1e-4)


def test_an_interrupted_distillation_ends_as_an_uninterrupted_one(finished, tmp_path, interrupt_at):
    config, whole, summary = finished
    stops = [("teacher-seed0", 3), ("distil-seed0", 8)]
    interrupt_at(stops)
    parts = tmp_path / "parts"
    for run, _ in list(stops):
        with pytest.raises(Interrupted, match=f"SIGTERM: {run} is saved at step"):
            distill(config, parts)
    found = distill(config, parts)
    assert not stops
    for run in ("teacher-seed0", "distil-seed0"):
        chex.assert_trees_all_equal(last_state(parts, run), last_state(whole, run))
    assert found["students"] == summary["students"]
    assert found["teachers"] == summary["teachers"]
    validations = [r for r in read_metrics(parts) if r["kind"] == "validation"]
    assert validations == [r for r in read_metrics(whole) if r["kind"] == "validation"]


# Teachers from other runs


@pytest.fixture(scope="module")
def given(finished):
    """Fields that make the teacher and the student of the finished run teachers of another run."""
    _, path, _ = finished
    return {"teacher__workdir": (str(path),) * 2, "teacher__student": ("teacher", 1)}


def test_teachers_come_from_workdirs(finished, given, small_npz):
    _, path, _ = finished
    experiment = resolve(distill_config(small_npz, **given))
    teachers = load_teachers(experiment)
    for teacher, name in zip(teachers, ("teacher", "student 1, distilled"), strict=True):
        expected = load_student(path, name)
        chex.assert_trees_all_equal(teacher.variables, expected.variables)
        assert teacher.vector == expected.widths
        assert teacher.name == f"{name} of {path}"
    frozen = fixed(teachers, experiment)
    assert [network.scale for network in frozen.networks] == [(), ()]  # All normalise alike.


def test_a_teacher_of_an_unfinished_run_is_named(finished, small_npz, tmp_path):
    _, path, _ = finished
    config = distill_config(small_npz, teacher__workdir=(str(path),))
    (teacher,) = load_teachers(resolve(config))
    assert teacher.remark == ""
    going_on = shutil.copytree(path, tmp_path / "going_on")
    (going_on / "results.json").unlink()
    config.teacher.workdir = (str(going_on),)
    (teacher,) = load_teachers(resolve(config))
    assert "has not ended; it has had 12 steps" in teacher.remark


def test_two_teachers_teach_by_the_average_of_their_logits(given, small_npz):
    """Each teacher gets the images normalised as in its own training."""
    experiment = resolve(distill_config(small_npz, **given))
    first, second = load_teachers(experiment)
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
    dataset = experiment.dataset
    ours = ((images / 255 - dataset.mean) / dataset.std).astype(np.float32)
    theirs = ((images / 255 - 0.2) / 0.7).astype(np.float32)
    other = Teacher("other", second.architecture, second.variables, mean=(0.2,), std=(0.7,))
    frozen = fixed((first, other), experiment)
    both = (first.variables, other.variables)
    found = frozen(frozen.for_batch(both, None), ours)
    expected = [
        teacher.architecture.build().apply(teacher.variables, seen).logits
        for teacher, seen in ((first, ours), (other, theirs))
    ]
    np.testing.assert_allclose(found.logits, np.mean(expected, axis=0), rtol=1e-4, atol=1e-4)
    assert found.features == ()


def test_a_run_with_kept_logits_of_two_teachers_is_the_run(finished, given, small_npz, tmp_path):
    """The run with kept logits gets its teachers from a program, not by naming their workdirs."""
    runs = {}
    for cached in (False, True):
        config = distill_config(small_npz, **given, teacher__cache_logits=cached)
        teachers = ()
        if cached:
            teachers = load_teachers(resolve(config))
            config.teacher.update(workdir=(), student=())
        path = tmp_path / f"cached-{cached}"
        runs[cached] = distill(config, path, teachers), last_state(path, "distil-seed0")
    (computed, variables), (kept, kept_variables) = runs[False], runs[True]
    chex.assert_trees_all_close(variables, kept_variables, rtol=1e-4, atol=1e-5)
    assert [entry["test"] for entry in kept["teachers"]] == [
        entry["test"] for entry in computed["teachers"]
    ]
    assert 0 <= kept["average_of_teachers"]["test"] <= 1
    names = {entry.name for entry in (tmp_path / "cached-True" / "checkpoints").iterdir()}
    assert names == {"distil-seed0"}
    for run, where in (("False", f"is in {finished[1]} and"), ("True", "was given by a program")):
        with pytest.raises(ValueError, match=f"the teacher of this workdir {where}"):
            load_student(tmp_path / f"cached-{run}", "teacher")
    # A run continues only with the same teachers.
    config = distill_config(small_npz, teacher__cache_logits=True)
    with pytest.raises(workdir.WorkdirError, match="whose teacher was given by a program"):
        distill(config, tmp_path / "cached-True")
    atomic.write_json(tmp_path / "cached-False" / "teacher.json", {"digest": "another"})
    with pytest.raises(workdir.WorkdirError, match="a distillation with another teacher"):
        distill(distill_config(small_npz, **given), tmp_path / "cached-False")


@pytest.mark.parametrize("devices", [1, 2])
def test_logits_of_a_split_are_in_its_order(finished, given, small_npz, devices):
    config = distill_config(small_npz, **given, compute__devices=devices)
    experiment = resolve(config)
    teachers = load_teachers(experiment)
    feed = experiment.feed()
    outputs = TeacherOutputs(experiment, feed, fixed(teachers, experiment), variables_of(teachers))
    logits, labels = outputs.logits("train")
    split, dataset = experiment.dataset.train, experiment.dataset
    assert logits.shape == (TRAIN, 2, 4)
    np.testing.assert_array_equal(labels, split.labels)
    images = ((split.images / 255 - dataset.mean) / dataset.std).astype(np.float32)
    first = teachers[0].architecture.build().apply(teachers[0].variables, images).logits
    np.testing.assert_allclose(logits[:, 0], first, rtol=1e-4, atol=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__student": (1,)}, r"config.teacher.student is \(1,\): expected no entries or 0"),
        ({"teacher__seed": (1,)}, r"config.teacher.seed is \(1,\): expected no entries or 0"),
        (
            {"teacher__workdir": ("a", "b"), "weights__feature": 1.0},
            "config.weights.feature reads the maps of one teacher, but config.teacher.workdir is",
        ),
        (
            {"teacher__cache_logits": True, "data__flip": True, "data__crop_padding": 2},
            "must be the same in every epoch, but config.data.crop_padding is 2 and "
            "config.data.flip is True",
        ),
        (
            {"teacher__cache_logits": True, "weights__attention_transfer": 1.0},
            "config.weights.attention_transfer reads the teacher's maps, which are not kept",
        ),
        ({"student_scales": ()}, r"config.student_scales is \(\): expected numbers above 0"),
        ({"teacher__network": "resnet9"}, "config.teacher.network: unknown network 'resnet9'"),
        (
            {"teacher__workdir": ("none",)},
            r"config.teacher.workdir\[0\] is 'none': .*holds no kdja",
        ),
    ],
)
def test_bad_fields_are_refused_before_anything_starts(small_npz, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        distill(distill_config(small_npz, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher__student": (7,)},
            r"config.teacher.student\[0\]: student is 7: this workdir has",
        ),
        (
            {"teacher__seed": (5,)},
            r"config.teacher.seed\[0\]: seed is 5: student 1, distilled was .*",
        ),
        ({"data__split_seed": 4}, "its config.data.split_seed is 0, expected 4: it may have been"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(finished, small_npz, tmp_path, changes, message):
    _, path, _ = finished
    config = distill_config(small_npz, **{"teacher__workdir": (str(path),), **changes})
    with pytest.raises(ConfigError, match=message):
        distill(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_leaving_out_corrupt_images_divides_a_stream_in_another_way(small_npz):
    theirs, own = distill_config(small_npz), distill_config(small_npz, data__memory="stream")
    dataset = SimpleNamespace(fingerprint=lambda: "of the stream")
    experiment = SimpleNamespace(config=own, dataset=dataset)
    assert check_split(theirs.data, "of the set", experiment, "the teacher") == ""
    theirs.data.skip_corrupt = own.data.skip_corrupt = True
    with pytest.raises(ConfigError, match=r"its config.data.memory is device, expected stream: it"):
        check_split(theirs.data, "of the set", experiment, "the teacher")


def test_a_teacher_of_images_that_have_changed_is_refused(small_npz):
    config = distill_config(small_npz)
    experiment = resolve(config)
    fingerprint = experiment.dataset.fingerprint()
    assert check_split(config.data, fingerprint, experiment, "the teacher") == ""
    with pytest.raises(ConfigError, match=r"images, labels or splits of npz:.* have changed since"):
        check_split(config.data, "another", experiment, "the teacher")
    # A field that has no effect on this set may differ, if the images are the same.
    other = distill_config(small_npz, data__test=0.3).data
    assert check_split(other, fingerprint, experiment, "the teacher") == ""
    # With fewer labels the same set has another fingerprint.
    fewer = distill_config(small_npz, data__labels_per_class=3).data
    assert check_split(fewer, "another", experiment, "the teacher") == ""


def test_a_teacher_is_its_numbers_and_all_that_it_does_with_an_image():
    architecture = models.create("resnet8", 4, width=0.25)
    variables = models.initialize(architecture.build(), 0, SHAPE)
    plain = Teacher("mine", architecture, variables)
    same = dataclasses.replace(plain, name="yours", seed=1)
    other = dataclasses.replace(plain, mean=(0.4,), std=(0.2,))
    found = [digest(teacher.identity) for teacher in (plain, same, other)]
    assert found[0] == found[1] != found[2]


def test_a_configuration_of_another_command_is_named(tmp_path):
    for task, default, other in (
        (distill, configuration.default, "kdjax train"),
        (train, configuration.search_default, "kdjax search"),
        (search, configuration.distill_default, "kdjax distill"),
    ):
        with pytest.raises(ConfigError, match=f"this is a configuration of `{other}`, not of `kd"):
            task(default(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_given_teacher_is_checked(small_npz, tmp_path):
    config = distill_config(small_npz)
    four, five = (models.create("resnet8", classes, width=0.25) for classes in (4, 5))
    variables = models.initialize(four.build(), 0, SHAPE)
    names = resolve(config).dataset.class_names
    for teacher, message in (
        (Teacher("mine", five, variables), "its number of classes is 5, expected 4"),
        (Teacher("mine", four, variables, class_names=names[::-1]), "its class 0 is '3', expected"),
        (Teacher("mine", four, variables, image_shape=(9, 8, 1)), "its image shape is"),
        (
            Teacher("mine", four, jax.tree.map(lambda leaf: leaf * np.float32("nan"), variables)),
            "its batch_stats/branch/.* has numbers that are not finite",
        ),
        (Teacher("mine", four.scaled(0.5), variables), "the shape of its batch_stats/branch/"),
    ):
        with pytest.raises(ConfigError, match=f"the teacher mine does not fit: {message}"):
            distill(config, tmp_path / "run", (teacher,))
    config.teacher.workdir = ("runs/a",)
    with pytest.raises(ConfigError, match="but teachers are given as well"):
        distill(config, tmp_path / "run", (Teacher("mine", four, variables),))
    assert not (tmp_path / "run").exists()

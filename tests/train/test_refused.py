"""What training refuses before anything is written or lost."""

import numpy as np
import pytest

from kdjax import atomic, data, models, widths
from kdjax import config as configuration
from kdjax.train import train
from kdjax.train.run import workdir
from kdjax.train.tasks.evaluate import evaluate
from kdjax.train.tasks.experiment import resolve


def test_a_foreign_workdir_is_left_alone(small_config, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(workdir.WorkdirError, match="is not empty and holds no kdjax run"):
        train(small_config, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workdir_below_a_file_is_refused(small_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(workdir.WorkdirError, match=r"cannot be written: .*file is a file"):
        train(small_config, tmp_path / "file" / "run")
    with pytest.raises(workdir.WorkdirError, match="is a file"):
        train(small_config, tmp_path / "file")


def test_other_widths_in_the_same_files_are_refused(small_config, tmp_path):
    architecture = models.create("resnet8", 4, width=0.25)
    files = (str(tmp_path / "pivot.json"), str(tmp_path / "narrow.json"))
    widths.save(architecture.widths, files[0])
    widths.save(widths.scale(architecture.widths, 0.5, keep=("stem",)), files[1])
    small_config.student_widths = files
    vectors = resolve(small_config).student_widths
    workdir.create(tmp_path / "run", small_config, vectors)
    widths.save(widths.scale(architecture.widths, 0.3, keep=("stem",)), files[1])
    with pytest.raises(workdir.WorkdirError, match=r"students with other widths"):
        train(small_config, tmp_path / "run")
    assert workdir.read_student_widths(tmp_path / "run") == [dict(vector) for vector in vectors]


def test_a_workdir_in_use_is_refused(small_config, tmp_path):
    with workdir.locked(tmp_path), pytest.raises(workdir.WorkdirError, match="in use"):
        train(small_config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 100}, "config.batch_size is 100: at most the 81 training images"),
        (
            {"batch_size": 12, "compute.devices": 8},
            "config.batch_size is 12: it must be divisible by the 8 devices",
        ),
        ({"compute.devices": 9}, "config.compute.devices is 9: there are 8"),
        ({"network": "resnet9"}, "unknown network 'resnet9'.*known are resnet8, resnet20"),
        ({"data.name": "nothing10"}, "dataset 'nothing10' is not in .*kdjax prepare nothing10"),
        ({"data.name": "cifra10"}, "Known names: digits, cifar10.*did you mean cifar10"),
        ({"data.name": "npz:nothing.npz"}, "'npz:nothing.npz': there is no such file"),
        ({"data.crop_padding": 8}, "config.data.crop_padding is 8: it must be below"),
        (
            {"data.image_size": (16, 16)},
            r"config.data.image_size is \(16, 16\): the images of npz:",
        ),
        ({"student_widths": ("nothing.json",)}, "1 entries"),
        ({"student_widths": ("a.json", "b.json")}, "a.json"),
        ({"weights.soft": -1.0}, r"config.weights.soft is -1.0: expected at least 0"),
        ({"temperature": 0.0}, "config.temperature is 0.0: expected at least 0.001"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_written(
    small_config, tmp_path, changes, message
):
    small_config.update_from_flattened_dict(changes)
    with pytest.raises((ValueError, data.DataError), match=message):
        train(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_students_from_width_files(small_config, tmp_path):
    architecture = models.create("resnet8", 4, width=0.25)
    narrow = widths.scale(architecture.widths, 0.5, keep=("stem",))
    for name, vector in (("pivot", architecture.widths), ("narrow", narrow)):
        widths.save(vector, tmp_path / f"{name}.json")
    files = (str(tmp_path / "pivot.json"), str(tmp_path / "narrow.json"))
    small_config.student_widths = files
    assert resolve(small_config).student_widths == (architecture.widths, narrow)
    small_config.student_widths = files[::-1]
    with pytest.raises(ValueError, match="the pivot comes first and is the widest"):
        resolve(small_config)


def test_changed_data_is_refused_in_training_and_evaluation(small_config, small_npz, tmp_path):
    copy = tmp_path / "set.npz"
    arrays = dict(np.load(small_npz))
    np.savez(copy, **arrays)
    small_config.data.name = f"npz:{copy}"
    small_config.epochs = 2
    train(small_config, tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    arrays["test_labels"][3] = (arrays["test_labels"][3] + 1) % 4
    np.savez(copy, **arrays)
    with pytest.raises(workdir.WorkdirError, match="run on other data"):
        train(small_config, tmp_path / "run")
    with pytest.raises(workdir.WorkdirError, match="run on other data"):
        evaluate(tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_the_best_may_be_chosen_on_a_validation_split_of_its_own(small_config, small_npz, tmp_path):
    arrays = dict(np.load(small_npz))
    arrays |= {f"validation_{kind}": arrays[f"test_{kind}"] for kind in ("images", "labels")}
    np.savez(tmp_path / "three.npz", **arrays)
    small_config.data.update(name=f"npz:{tmp_path / 'three.npz'}", validation=0.0)
    small_config.evaluation.select = "best"
    assert resolve(small_config).dataset.sizes["validation"] == 30
    small_config.data.name = f"npz:{small_npz}"
    with pytest.raises(configuration.ConfigError, match=r"validation is 0\.0: that holds out no"):
        resolve(small_config)


def test_a_start_that_died_leaves_nothing_that_counts(small_config, tmp_path):
    for name in ("data.json", "teacher.json", "latency.json", "terms.json"):
        atomic.write_json(tmp_path / name, {"fingerprint": "of other data"})
    with workdir.claimed(tmp_path, small_config):
        assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]
    # A run that has begun keeps its files.
    workdir.create(tmp_path, small_config)
    atomic.write_json(tmp_path / "data.json", {"fingerprint": "of its data"})
    with workdir.claimed(tmp_path, small_config):
        assert (tmp_path / "data.json").exists()

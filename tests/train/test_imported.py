"""`kdjax import-torch`: its workdir can be used by everything that reads workdirs."""

import contextlib

import numpy as np
import pytest

import kdjax
from kdjax import cli, models
from kdjax import config as configuration
from kdjax.cli import STOPPED
from kdjax.config import ConfigError
from kdjax.models.importing import torch_shapes
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.workdir import read_config
from kdjax.train.tasks.experiment import resolve
from kdjax.train.tasks.search_teacher import load_teacher

WIDTH, CLASSES, SHAPE = 1 / 32, 4, (8, 8, 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random tensors of a thin resnet18."""
    rng = np.random.default_rng(0)
    architecture = models.create("resnet18", CLASSES, width=WIDTH)
    tensors = {
        name: rng.uniform(0.1, 1.0, shape).astype(np.float32)
        for name, shape in torch_shapes(architecture, SHAPE).items()
    }
    path = tmp_path_factory.mktemp("weights") / "resnet18.npz"
    np.savez(path, **tensors)
    return path


@pytest.fixture
def command(weights, small_npz, tmp_path):
    return [
        *("import-torch", f"--weights={weights}", f"--workdir={tmp_path / 'run'}"),
        *("--config.network=resnet18", f"--config.network_width={WIDTH}"),
        *(f"--config.data.name=npz:{small_npz}", "--config.seeds=(3, 4)"),
        *("--config.batch_size=16", "--config.compute.devices=1"),
    ]


@pytest.fixture
def imported(command, tmp_path, capsys):
    assert cli.main(command) == 0
    return tmp_path / "run"


def test_fewer_images_than_a_batch_are_enough(command, tmp_path):
    command[command.index("--config.batch_size=16")] = "--config.batch_size=1000"
    assert cli.main(command) == 0
    assert read_config(tmp_path / "run").batch_size == 81  # All training images.


def test_numbers_that_are_not_finite_are_refused(command, weights, tmp_path, capsys):
    tensors = dict(np.load(weights))
    tensors["layer1.0.conv1.weight"][0] = np.nan
    np.savez(tmp_path / "broken.npz", **tensors)
    command[1] = f"--weights={tmp_path / 'broken.npz'}"
    assert cli.main(command) == 2
    assert "layer1.0.conv1.weight has numbers that are not finite" in capsys.readouterr().err


def test_the_workdir_is_a_run_before_its_first_step(imported, weights, capsys):
    student = kdjax.load_student(imported)
    assert (student.name, student.run, student.step) == (
        "student 1, alone", "independent-seed3", 0,
    )  # fmt: skip
    tensors = models.read_tensors(weights)
    expected = models.import_torch(student.network.architecture, tensors, image_shape=SHAPE)
    classifier = student.variables["params"]["branch"]["classifier"]["kernel"]
    np.testing.assert_array_equal(classifier, tensors["fc.weight"].T)
    # Training continues from the imported weights instead of fresh ones.
    config = read_config(imported)
    experiment = resolve(config)
    initial = experiment.runner("independent", experiment.feed()).initial_state(3)
    folder = imported / "checkpoints" / "independent-seed3"
    with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
        state, record = checkpoints.recover(initial, experiment.record)
    assert (int(state.step), record["best_step"]) == (0, -1)
    kernel = state.params["student_1"]["stem"]["conv"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, expected["params"]["stem"]["conv"]["conv"]["kernel"])
    assert cli.main(["evaluate", f"--workdir={imported}"]) == 0
    assert "student 1, alone" in capsys.readouterr().out


def test_it_is_a_teacher_for_a_search(imported, small_npz):
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {
            "network": "resnet18",
            "network_width": WIDTH,
            "data.name": f"npz:{small_npz}",
            "batch_size": 16,
            "compute.devices": 1,
            "teacher.workdir": str(imported),
        }
    )
    experiment = resolve(config)
    teacher, remark = load_teacher(config.teacher, experiment)
    assert remark == ""
    student = kdjax.load_student(imported)
    for kind, path in (("params", "scale"), ("batch_stats", "var")):
        norms = (tree[kind]["stem"]["conv"]["norm"][path] for tree in (teacher, student.variables))
        np.testing.assert_array_equal(*norms)
    config.data.split_seed = 1
    with pytest.raises(
        ConfigError, match=r"the teacher .* does not fit: its config\.data\.split_seed"
    ):
        load_teacher(config.teacher, resolve(config))


def test_an_import_that_was_cut_short_can_be_repeated(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    command[2] = "--workdir=~/run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "close", interrupted)
        assert cli.main(command) == STOPPED
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert cli.main(command) == 0
    assert kdjax.load_student("~/run").step == 0
    assert not list((tmp_path / "run").glob(".*.tmp"))


def interrupted(*_):
    raise KeyboardInterrupt


def test_the_command_says_what_it_wrote(command, weights, capsys, tmp_path):
    assert cli.main([*command, "--new_classifier"]) == 0
    shown = capsys.readouterr().out
    assert f"resnet18 from {weights}: " in shown
    assert "its classifier initialised anew" in shown
    assert "images of 8 x 8 x 1, 4 classes, in the order of the data; normalised with mean" in shown
    config = read_config(tmp_path / "run")
    assert (config.method, config.seeds) == ("independent", (3,))
    assert config.student_scales == (1.0,)
    assert cli.main(command) == 2
    assert "holds a run already: choose another --workdir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--weights=none.npz"], "--weights is 'none.npz': No such file or directory"),
        (["--weights=net.pth"], "net.pth is neither .npz nor .safetensors. PyTorch converts"),
        (["--config.network=resnet34"], "the tensors are not those of resnet34 with 4 classes: "),
        (["--config.network=resnet8"], "resnet8 is not a network of torchvision"),
        (["--config.network=resnet17"], "unknown network 'resnet17'"),
        (["--new_clasifier"], "unknown argument '--new_clasifier'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(command, changed, message, capsys, tmp_path):
    assert cli.main([*command, *changed]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("kdjax import-torch: ")
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_full_width_is_the_default(command, capsys, tmp_path):
    narrow = [text for text in command if "network_width" not in text]
    assert cli.main(narrow) == 2
    assert "bn1.bias is (2,), expected (64,)" in capsys.readouterr().err

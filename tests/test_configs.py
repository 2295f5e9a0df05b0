"""Every configuration file can be built, and trains two steps on small data."""

from pathlib import Path

import jax
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax import models
from kdjax.cli import read_config
from kdjax.train import distill
from kdjax.train.program.compiled import Runner
from kdjax.train.program.optimizer import learning_rate_schedule
from kdjax.train.tasks.experiment import resolve, stage_config
from kdjax.train.tasks.search_stage import resolve_budget, search_method, search_optimizer

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def test_all_are_there():
    assert {path.stem for path in CONFIGS} == {
        "cifar100_resnet110",
        "cifar100_resnet32",
        "cifar10_densenet_bc",
        "cifar10_efficientnet_b0",
        "cifar10_resnet110",
        "cifar10_resnet20",
        "cifar10_wrn_16_2",
        "custom_folder",
        "digits",
        "distill_cifar100",
        "distill_digits",
        "imagenet_mobilenet_v2",
        "imagenet_resnet18",
        "search_cifar10_mobilenet_v2",
        "search_cifar10_resnet56",
        "search_cifar10_vgg16",
        "search_digits",
        "search_tin100a_mobilenet_v2",
        "tin100a_resnet110",
        "tin100a_resnet20",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_states_its_command_cost_and_result(path):
    docstring = path.read_text().split('"""')[1]
    for part in ("Command:", "Cost:", "Expected:", f"configs/{path.name}"):
        assert part in docstring


TRAINED = [path for path in CONFIGS if not path.stem.startswith(("search_", "distill_"))]
SEARCHED = [path for path in CONFIGS if path.stem.startswith("search_")]


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_training_configs_train_two_steps(path, small_npz):
    config = read_config(str(path), [])
    configuration.validate(config)
    architecture = models.create(config.network, 10, width=config.network_width)
    assert len(config.student_scales) == 5
    small = {
        "data.name": f"npz:{small_npz}",
        "network": "resnet8",  # Depth only adds compile time.
        "network_width": 0.25,
        "student_scales": (1.0, 0.5),
        "batch_size": 16,
        "compute.devices": 1,
        "data.memory": "device",
        "data.crop_padding": 1,
        "data.image_size": (0, 0),
        "data.labels_per_class": 0,
        "teacher_weights": (),
    }
    assert architecture.name == config.network
    config.update_from_flattened_dict(small)
    experiment = resolve(config)
    feed = experiment.feed()
    runner = experiment.runner("ensemble", feed)
    state = runner.place(runner.initial_state(0))
    for step in range(2):
        state, metrics, _ = runner.steps(state, runner.epoch(state, 0), step, 2)
    assert int(runner.fetch(state).step) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(runner.to_host(metrics)))


@pytest.mark.parametrize("path", SEARCHED, ids=lambda path: path.stem)
def test_search_configs_have_a_reachable_budget_and_search_two_steps(path, small_npz):
    config = read_config(str(path), [], "search")
    configuration.validate(config)
    wanted = config.search.target.to_dict()
    config.update_from_flattened_dict({"data.name": f"npz:{small_npz}", "compute.devices": 1})
    config.update_from_flattened_dict({"batch_size": 16, "data.crop_padding": 1})
    full = resolve_budget(resolve(config))
    assert {c.name: c.target for c in full.constraints} == {
        name: share for name, share in wanted.items() if share
    }
    config.update_from_flattened_dict({"network": "resnet8", "network_width": 0.25})
    experiment = resolve(config)
    feed = experiment.feed()
    budget = resolve_budget(experiment)
    runner = Runner(
        search_method(experiment, budget),
        stage_config(config, 1, constant_rate=config.search.learning_rate),
        feed,
        experiment.parallel,
        teacher=models.initialize(experiment.architecture.build(), 0, (8, 8, 1)),
        wrap=search_optimizer(experiment, budget),
    )
    state = runner.place(runner.initial_state(0))
    for step in range(2):
        state, metrics, _ = runner.steps(state, runner.epoch(state, 0), step, 2)
    assert int(runner.fetch(state).step) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(runner.to_host(metrics)))


PAIRS = {  # Parameters of teacher and student with 100 classes.
    "resnet56_resnet20": (861_620, 278_324),
    "resnet110_resnet20": (1_736_564, 278_324),
    "resnet110_resnet32": (1_736_564, 472_756),
    "wrn_40_2_wrn_16_2": (2_255_156, 703_284),
    "wrn_40_2_wrn_40_1": (2_255_156, 569_780),
    "vgg13_vgg8": (9_462_180, 3_965_028),
    "resnet50_mobilenet_v2": (23_712_932, None),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_of_the_usual_table(pair):
    path = CONFIGS[0].parent / "distill_cifar100.py"
    config = read_config(f"{path}:{pair}", [], "distill")
    configuration.validate(config)
    teacher = models.create(config.teacher.network, 100, width=config.teacher.network_width)
    student = models.create(config.network, 100, width=config.network_width)
    assert pair == f"{teacher.name}_{student.name}".replace("_bn", "") and pair in path.read_text()
    for architecture, expected in zip((teacher, student), PAIRS[pair], strict=True):
        params = architecture.cost(architecture.widths, (32, 32, 3)).params
        assert expected in (params, None)
    # The rate drops after 150, 180 and 210 of 240 epochs, each with 782 batches.
    rate = learning_rate_schedule(config.schedule, config.epochs, 782)
    rates = [float(rate(epoch * 782)) for epoch in (0, 149, 150, 180, 210)]
    first = 0.01 if "mobilenet" in pair else 0.05
    np.testing.assert_allclose(rates, [first, first, first / 10, first / 100, first / 1000])
    assert (config.weights.hard, config.weights.soft, config.temperature) == (0.1, 0.9, 4.0)


def test_an_unknown_pair_is_named():
    path = CONFIGS[0].parent / "distill_cifar100.py"
    with pytest.raises(configuration.ConfigError, match="the pair is 'vgg19_vgg8': known are"):
        read_config(f"{path}:vgg19_vgg8", [], "distill")


def test_the_recipe_of_the_pairs_trains(small_npz, tmp_path):
    config = read_config(str(CONFIGS[0].parent / "distill_cifar100.py"), [], "distill")
    small = {
        "seeds": (0,),
        "data.name": f"npz:{small_npz}",
        "data.crop_padding": 1,
        "network": "resnet8",
        "network_width": 0.25,
        "teacher.network": "resnet8",
        "teacher.network_width": 0.375,
        "teacher.epochs": 1,
        "epochs": 1,
        "batch_size": 32,
        "compute.devices": 1,
        "log.tensorboard": False,
    }
    config.update_from_flattened_dict(small)
    summary = distill(config, tmp_path / "run")
    assert "val" not in summary["students"][0]["distilled"]  # All images are for training.
    assert summary["students"][0]["gain_points"] is not None


def test_paper_recipe():
    config = read_config(str(CONFIGS[0].parent / "cifar10_resnet20.py"), [])
    on = {name: weight for name, weight in config.weights.items() if weight}
    assert on == {"hard": 0.7, "feature": 0.15, "soft": 0.15}
    assert set(config.weight_ramp.values()) - {config.weight_ramp.epochs} == {"constant"}
    assert (config.temperature, config.epochs, config.batch_size) == (2.0, 350, 128)
    assert config.student_scales == (1.0, 0.8, 0.6, 0.4, 0.2)
    assert (config.data.crop_padding, config.data.flip) == (4, True)
    assert config.schedule.boundaries == (0.5, 0.75)
    efficient = read_config(str(CONFIGS[0].parent / "cifar10_efficientnet_b0.py"), [])
    assert (efficient.optimizer.name, efficient.optimizer.b2) == ("rmsprop", 0.9)
    assert (efficient.optimizer.momentum, efficient.schedule.learning_rate) == (0.9, 0.256)
    assert (efficient.schedule.factor, efficient.schedule.every_epochs) == (0.97, 3.0)
    imagenet = read_config(str(CONFIGS[0].parent / "imagenet_resnet18.py"), [])
    assert (imagenet.epochs, imagenet.schedule.boundaries) == (100, (0.5, 0.75))
    custom = read_config(f"{CONFIGS[0].parent / 'custom_folder.py'}:my/images", [])
    assert custom.data.name == "folder:my/images"

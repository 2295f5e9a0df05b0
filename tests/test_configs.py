"""Every configuration file builds, and trains two steps on small data."""

from pathlib import Path

import jax
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax import models
from kdjax.cli import read_config
from kdjax.train.experiment import resolve

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def test_all_are_there():
    assert {path.stem for path in CONFIGS} == {
        "cifar100_resnet110",
        "cifar100_resnet32",
        "cifar10_resnet110",
        "cifar10_resnet20",
        "custom_folder",
        "digits",
        "tin100a_resnet110",
        "tin100a_resnet20",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_states_its_result_and_trains_two_steps(path, small_npz):
    docstring = path.read_text().split('"""')[1]
    for part in ("Command:", "Cost:", "Expected:", f"configs/{path.name}"):
        assert part in docstring
    config = read_config(str(path), [])
    configuration.validate(config)
    architecture = models.create(config.network, 10, width=config.network_width)
    assert len(config.student_scales) == 5
    small = {
        "data.name": f"npz:{small_npz}",
        "network": "resnet8",  # Depth costs compile time and nothing else differs.
        "network_width": 0.25,
        "student_scales": (1.0, 0.5),
        "batch_size": 16,
        "compute.devices": 1,
    }
    assert architecture.name == config.network
    config.update_from_flattened_dict(small)
    experiment = resolve(config)
    batches, device, _ = experiment.prepare()
    runner = experiment.runner("ensemble", batches, device)
    state = runner.place(runner.initial_state(0))
    for step in range(2):
        state, metrics, _ = runner.steps(state, runner.epoch_order(state, 0), step, 2)
    assert int(runner.fetch(state).step) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(runner.to_host(metrics)))


def test_paper_recipe():
    config = read_config(str(CONFIGS[0].parent / "cifar10_resnet20.py"), [])
    assert config.weights.to_dict() == {"hard": 0.7, "feature": 0.15, "soft": 0.15}
    assert set(config.weight_ramp.values()) - {config.weight_ramp.epochs} == {"constant"}
    assert (config.temperature, config.epochs, config.batch_size) == (2.0, 350, 128)
    assert config.student_scales == (1.0, 0.8, 0.6, 0.4, 0.2)
    assert (config.data.crop_padding, config.data.flip) == (4, True)
    assert config.schedule.boundaries == (0.5, 0.75)
    custom = read_config(f"{CONFIGS[0].parent / 'custom_folder.py'}:my/images", [])
    assert custom.data.name == "folder:my/images"

"""The result of a search: a structure within the budget and its uniform rival; devices, ramps."""

import types

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import costs, models
from kdjax.train.program.compiled import Runner
from kdjax.train.tasks.experiment import resolve, stage_config
from kdjax.train.tasks.search_stage import (
    Monitor,
    resolve_budget,
    search_method,
    search_optimizer,
)
from kdjax.train.tasks.structure import StructureError, find_structure

SHAPE = (8, 8, 1)
STEPS_PER_EPOCH = 6  # 81 training images in batches of 16.


def made_up(config, alive):
    """Makes up a finished search: (experiment, budget, state), ``alive`` channels in each group."""
    experiment = resolve(config)
    budget = resolve_budget(experiment)
    channels = budget.channels
    flags, params = [], {}
    for group in channels.groups:
        flags.append(np.arange(group.units) >= alive.get(group.name, group.channels))
        for _, *path, _, _ in group.scales:
            node = params
            for key in ("student_1", *path):
                node = node.setdefault(key, {})
            node["norm"] = {"scale": np.where(flags[-1], 0, 1).astype(np.float32)}
    dead = np.concatenate(flags)
    controller = types.SimpleNamespace(dead=dead, died=dead * 5, importance=np.where(dead, 0.1, 1))
    state = types.SimpleNamespace(
        params=params, optimizer_state=types.SimpleNamespace(controller=controller)
    )
    return experiment, budget, state


def test_a_search_above_its_target_says_where_and_why(search_of):
    config = search_of()
    with pytest.raises(StructureError) as refused:
        find_structure(*made_up(config, {"stage3": 1}))
    text = str(refused.value)
    assert text.startswith("the search ended above its target: flops 0.")
    assert "for 0.5000; groups at their minimum width: stage3" in text
    assert "equal because their maps are added or multiplied: stem = stage1" in text


def test_found_widths_are_rounded_within_the_budget(search_of):
    config = search_of(search__multiple=2)
    alive = {"stem": 1, "stage1.block1.conv1": 3, "stage2": 5, "stage3": 7}
    experiment, budget, state = made_up(config, alive)
    structure = find_structure(experiment, budget, state)
    assert structure.alive["stage2"] == 5
    assert budget.allows(structure.compact)
    assert all(width % 2 == 0 for width in structure.compact.values())
    assert {name: len(indices) for name, indices in structure.kept.items()} == structure.compact


def test_a_found_structure_can_be_widened(search_of):
    config = search_of(search__expand=True)
    alive = {"stem": 1, "stage1.block1.conv1": 1, "stage2": 2, "stage2.block1.conv1": 3}
    experiment, budget, state = made_up(config, alive)
    structure = find_structure(experiment, budget, state)
    assert budget.allows(structure.compact)
    assert all(structure.compact[name] >= width for name, width in structure.alive.items())
    assert budget.shares(structure.compact)["flops"] > 0.45
    assert structure.compact["stage2"] > 2


def test_channels_are_given_back_where_a_target_is_undercut(search_of):
    alive = {"stem": 1, "stage1.block1.conv1": 1, "stage2": 1}
    structure = find_structure(*made_up(search_of(), alive))
    # The groups have 4, 4, 8, 8, 16 and 16 channels; 3 % of all are less than two channels.
    assert structure.to_json()["channels"] == {
        "full": 56, "alive": 43, "after": 44, "back": 1, "gone": 0,
    }  # fmt: skip
    text = "1 of 56 channels were added after the search, to come closer to a target"
    assert text in structure.note
    assert "more than 2 % below the target: flops (at " in structure.note


def test_the_rival_keeps_what_is_frozen(search_of):
    config = search_of(search__blocks__frozen=("stage1",))
    alive = dict.fromkeys(("stage2", "stage2.block1.conv1", "stage3", "stage3.block1.conv1"), 2)
    structure = find_structure(*made_up(config, alive))
    for vector in (structure.uniform, structure.compact):
        for group in ("stem", "stage1", "stage1.block1.conv1"):
            assert vector[group] == structure.full[group]
    # The other groups have one multiplier, up to a channel, and keep the same budget.
    rest = ("stage2", "stage2.block1.conv1", "stage3", "stage3.block1.conv1")
    shares = [structure.uniform[group] / structure.full[group] for group in rest]
    assert max(shares) < 1 and max(shares) - min(shares) <= 1 / 8
    assert structure.uniform_costs["flops"] <= 0.5 * structure.full_costs["flops"]
    assert "it also keeps the widths of stem, stage1.block1.conv1" in structure.note


def test_with_two_targets_the_one_that_binds_the_rival_is_named(search_of):
    config = search_of(search__target__params=0.2)
    alive = {"stem": 3, "stage1.block1.conv1": 2, "stage2": 4, "stage2.block1.conv1": 4}
    alive |= {"stage3": 2, "stage3.block1.conv1": 3}
    experiment, budget, state = made_up(config, alive)
    structure = find_structure(experiment, budget, state)
    found = costs.count(experiment.architecture, structure.uniform, SHAPE)
    full = costs.count(experiment.architecture, structure.full, SHAPE)
    assert structure.to_json()["cost"]["uniform"] == {
        "flops": found.flops, "macs": found.macs, "params": found.params,
    }  # fmt: skip
    # A fifth of the parameters leaves a uniform network about a fifth of the FLOPs, not half.
    assert structure.to_json()["uniform_bound_by"] == "params"
    assert 0.15 < found.params / full.params <= 0.2 and found.flops / full.flops < 0.3
    assert (
        f"held to the budget by its params, {found.params / full.params:.1%} of the full network's,"
        f" and has {found.flops / full.flops:.1%} of the flops" in structure.note
    )


def test_targets_of_blocks_bind_the_rival_by_their_total(search_of):
    config = search_of(search__target__flops=0.0, search__blocks__targets=(0.0, 0.0, 0.5))
    structure = find_structure(*made_up(config, {"stage3": 3, "stage3.block1.conv1": 4}))
    assert structure.uniform_costs["flops"] <= structure.compact_costs["flops"]
    # Only stage 3 has a target, so no other stage is thinned.
    for group in ("stem", "stage1", "stage1.block1.conv1", "stage2", "stage2.block1.conv1"):
        assert structure.uniform[group] == structure.full[group]
    assert structure.uniform["stage3"] < structure.full["stage3"]
    assert "the targets of single blocks do not bind it, only their total does" in structure.note


def test_two_devices_search_as_one(search_of):
    """With batch statistics over all devices, the search is the same except for rounding."""
    ends = []
    for devices in (1, 2):
        config = search_of(
            compute__devices=devices, compute__batch_norm="global", data__crop_padding=0
        )
        experiment = resolve(config)
        budget = resolve_budget(experiment)
        feed = experiment.feed()
        runner = Runner(
            search_method(experiment, budget),
            stage_config(config, 1, constant_rate=0.02),
            feed,
            experiment.parallel,
            teacher=models.initialize(experiment.architecture.build(), 3, SHAPE),
            # The plan has so few steps that channels die at once.
            wrap=search_optimizer(experiment, budget),
        )
        state = runner.place(runner.initial_state(0))
        inputs = runner.epoch(state, 0)
        for step in range(STEPS_PER_EPOCH):
            state, metrics, _ = runner.steps(state, inputs, step, STEPS_PER_EPOCH)
        ends.append((runner.fetch(state), runner.to_host(metrics)))
    (one, measured), (two, also_measured) = ends
    assert one.optimizer_state.controller.dead.any()
    np.testing.assert_array_equal(
        one.optimizer_state.controller.dead, two.optimizer_state.controller.dead
    )
    chex.assert_trees_all_close(one.params, two.params, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(one.batch_stats, two.batch_stats, rtol=1e-3, atol=1e-4)
    for name in ("cost/flops", "alive/stage3"):
        np.testing.assert_allclose(measured[name][0], also_measured[name][0], rtol=1e-5)


def test_a_record_of_skipped_steps_says_nothing_of_channels(search_of):
    budget = resolve_budget(resolve(search_of()))
    said = []
    monitor = Monitor(budget, 18, 0.7, said.append)
    monitor(6, {"learning_rate": 0.1})
    assert not said


def test_weights_of_a_search_grow(search_of):
    config = search_of(weight_ramp__soft="linear", weight_ramp__epochs=2.0, weights__soft=0.8)
    experiment = resolve(config)
    method = search_method(experiment, resolve_budget(experiment))
    for epochs, share in ((0, 0.0), (1, 0.5), (2, 1.0), (3, 1.0)):
        weights = method.weights(jnp.int32(epochs * STEPS_PER_EPOCH))
        np.testing.assert_allclose(weights["soft"], [0.8 * share])
        np.testing.assert_allclose(weights["hard"], [0.5])

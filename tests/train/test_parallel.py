"""Devices and dispatches: how the work is split must not change what is learnt."""

import chex
import jax
import numpy as np
import pytest

from kdjax.train.program.compiled import Runner
from kdjax.train.tasks.experiment import resolve


def train_steps(config, devices, steps, per_dispatch=1):
    """Returns the state, the metrics of every dispatch and validation means after some steps."""
    config.update_from_flattened_dict(
        {"compute.devices": devices, "compute.steps_per_dispatch": per_dispatch}
    )
    experiment = resolve(config)
    feed = experiment.feed()
    runner: Runner = experiment.runner(config.method, feed)
    state = runner.place(runner.initial_state(0))
    metrics, done = [], 0
    while done < steps:
        epoch = done // runner.steps_per_epoch
        end = min(steps, (epoch + 1) * runner.steps_per_epoch)
        inputs = runner.epoch(state, done)
        state, stacked, taken = runner.steps(state, inputs, done, end)
        metrics.append(runner.to_host(stacked))
        done += taken
    means = runner.evaluate(state.variables, "validation")
    return runner.fetch(state), metrics, means


def test_one_device_equals_eight_with_global_statistics(small_config):
    # 90 - 9 = 81 training images in batches of 16: the last batch of an epoch has one image, so
    # that seven of eight devices get only padding.
    small_config.update_from_flattened_dict(
        {
            "compute.batch_norm": "global",
            # Terms that compare the examples of a batch, and a rule with a memory.
            "compute.batch_losses": "global",
            "weights.dist": 0.5,
            "weights.similarity_preserving": 10.0,
            "ensemble.rule": "by_accuracy",
        }
    )
    one, one_metrics, one_means = train_steps(small_config, 1, 8)
    eight, eight_metrics, eight_means = train_steps(small_config, 8, 8)
    assert int(eight.step) == 8
    chex.assert_trees_all_close(one.params, eight.params, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(one.batch_stats, eight.batch_stats, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(one.memory, eight.memory, rtol=1e-5)
    assert not np.array_equal(one.memory["losses"], np.ones(2))
    for name in ("loss", "hard", "feature", "soft", "dist", "similarity_preserving", "accuracy"):
        for a, b in zip(one_metrics, eight_metrics, strict=True):
            np.testing.assert_allclose(a[name][0], b[name][0], rtol=2e-4, atol=1e-4)
            np.testing.assert_array_equal(a[name][1], b[name][1])
    np.testing.assert_array_equal(one_means["accuracy"], eight_means["accuracy"])


def test_statistics_per_device_differ_but_stay_finite_and_equal_on_all(small_config):
    state, metrics, _ = train_steps(small_config, 8, 7)
    alone, _, _ = train_steps(small_config, 1, 7)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))
    gaps = [
        np.abs(a - b).max()
        for a, b in zip(
            jax.tree.leaves(state.batch_stats), jax.tree.leaves(alone.batch_stats), strict=True
        )
    ]
    assert max(gaps) > 1e-3


@pytest.mark.parametrize(("devices", "per_dispatch", "steps"), [(1, 3, 9), (2, 4, 8)])
def test_steps_in_one_dispatch_equal_single_steps(small_config, devices, per_dispatch, steps):
    # An epoch has six steps. Dispatches of 3 fit; with dispatches of 4, the last two steps of the
    # second dispatch must do nothing.
    single, single_metrics, _ = train_steps(small_config, devices, steps)
    many, many_metrics, _ = train_steps(small_config, devices, steps, per_dispatch)
    assert len(many_metrics) == 3
    assert int(many.step) == int(single.step) == steps
    chex.assert_trees_all_close(single.params, many.params, rtol=1e-4, atol=1e-5)
    for which in (0, 1):
        np.testing.assert_allclose(
            sum(metrics["loss"][which].sum() for metrics in many_metrics),
            sum(metrics["loss"][which].sum() for metrics in single_metrics),
            rtol=1e-4,
        )


def test_a_dispatch_that_starts_late_stops_at_the_end_of_the_epoch(small_config):
    """The run resumes within an epoch, and a dispatch has more steps than are left."""
    small_config.update_from_flattened_dict({"compute.steps_per_dispatch": 3})
    experiment = resolve(small_config)
    feed = experiment.feed()
    runner = experiment.runner("ensemble", feed)
    state = runner.place(runner.initial_state(0).replace(step=np.int32(4)))
    state, metrics, taken = runner.steps(state, runner.epoch(state, 0), 4, 6)
    assert taken == 2
    assert int(runner.fetch(state).step) == 6
    np.testing.assert_array_equal(runner.to_host(metrics)["loss"][1], [16, 1, 0])

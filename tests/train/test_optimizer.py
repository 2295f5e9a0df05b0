"""Optimisers, schedules and ramps against hand arithmetic."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import config as configuration
from kdjax.train.program.optimizer import learning_rate_schedule, make_optimizer

PARAMS = {"layer": {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([1.0, 3.0])}}
GRADIENTS = {"layer": {"kernel": jnp.array([[0.5, 0.25]]), "bias": jnp.array([-1.0, 2.0])}}


def config_with(**changes):
    config = configuration.default()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def updates_of(steps=1, **changes):
    config = config_with(**{f"optimizer__{name}": value for name, value in changes.items()})
    optimizer = make_optimizer(config.optimizer, optax.constant_schedule(0.1), separate=False)
    state, updates = optimizer.init(PARAMS), None
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENTS, state, PARAMS)
    return updates["layer"]


def test_a_run_of_one_epoch_warms_up():
    config = config_with(epochs=1, schedule__name="constant", schedule__learning_rate=0.4)
    schedule = learning_rate_schedule(config.schedule, 1, 8)  # 4 of the 8 steps warm up.
    np.testing.assert_allclose(
        [schedule(step) for step in range(6)], [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    )


def test_sgd_adds_decay_to_kernels_only():
    updates = updates_of(momentum=0.0, nesterov=False, weight_decay=0.1)
    np.testing.assert_allclose(updates["kernel"], [[-0.1 * (0.5 + 0.2), -0.1 * (0.25 - 0.4)]])
    np.testing.assert_allclose(updates["bias"], [0.1, -0.2])


def test_nesterov_momentum():
    # Velocities: v1 = g, v2 = .9 g + g = 1.9 g; the second update is -lr (g + .9 v2) = -lr 2.71 g.
    updates = updates_of(steps=2, weight_decay=0.0)
    np.testing.assert_allclose(updates["bias"], [0.271, -0.542], rtol=1e-6)


def test_first_step_of_adam_is_the_sign():
    updates = updates_of(name="adam", weight_decay=0.0)
    np.testing.assert_allclose(updates["bias"], [0.1, -0.1], rtol=1e-5)


def test_adamw_decouples_decay():
    updates = updates_of(name="adamw", weight_decay=0.5)
    # The update is -lr (sign(g) + .5 p).
    np.testing.assert_allclose(updates["kernel"], [[-0.1 * 2.0, -0.1 * (1.0 - 2.0)]], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [0.1, -0.1], rtol=1e-5)


def test_rmsprop_divides_by_the_running_root():
    updates = updates_of(name="rmsprop", b2=0.9, momentum=0.0, weight_decay=0.0, eps=1e-12)
    # Mean square after one step: .1 g^2, so g / sqrt(.1 g^2) = sign(g) / sqrt(.1).
    np.testing.assert_allclose(
        updates["bias"], [0.1 / np.sqrt(0.1), -0.1 / np.sqrt(0.1)], rtol=1e-5
    )


def test_clipping_is_by_the_norm_of_all_gradients():
    norm = np.sqrt(0.25 + 0.0625 + 1 + 4)
    updates = updates_of(momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=1.0)
    np.testing.assert_allclose(updates["bias"], np.array([0.1, -0.2]) / norm, rtol=1e-6)


def test_separate_networks_are_clipped_by_their_own_norm():
    config = config_with(
        optimizer__clip_norm=1.0, optimizer__momentum=0.0, optimizer__nesterov=False,
        optimizer__weight_decay=0.0,
    )  # fmt: skip
    optimizer = make_optimizer(config.optimizer, optax.constant_schedule(1.0), separate=True)
    params = {"student_1": jnp.zeros(2), "student_2": jnp.zeros(2)}
    gradients = {"student_1": jnp.array([3.0, 4.0]), "student_2": jnp.array([0.3, 0.4])}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["student_1"], [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(updates["student_2"], [-0.3, -0.4], rtol=1e-6)


def rates(epochs=10, steps_per_epoch=10, **changes):
    config = config_with(**{f"schedule__{name}": value for name, value in changes.items()})
    schedule = learning_rate_schedule(config.schedule, epochs, steps_per_epoch)
    return np.array([float(schedule(step)) for step in range(epochs * steps_per_epoch)])


def test_step_schedule_drops_at_half_and_three_quarters():
    values = rates(name="step", warmup_epochs=0.0)
    np.testing.assert_allclose(values[[0, 49, 51, 74, 76, 99]], [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])


def test_boundaries_that_fall_on_one_step_both_count():
    config = config_with(schedule__name="step", schedule__warmup_epochs=0.0)
    schedule = learning_rate_schedule(config.schedule, 3, 1)  # Both round to step 2.
    assert float(schedule(2)) == pytest.approx(1e-3)


def test_exponential_schedule_drops_every_so_many_epochs():
    values = rates(name="exponential", factor=0.97, every_epochs=3.0, warmup_epochs=0.0)
    np.testing.assert_allclose(values[[29, 30, 60]], [0.1, 0.097, 0.1 * 0.97**2], rtol=1e-6)


def test_cosine_schedule_rises_and_falls():
    values = rates(name="cosine", warmup_epochs=1.0, final=0.1)
    np.testing.assert_allclose(values[:10], 0.01 * np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(values[55], 0.1 * (0.1 + 0.9 * 0.5), rtol=1e-6)
    assert 0.01 <= values[-1] < 0.0101

"""The controller on four channels, compared with arithmetic by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tables
from tables import Layer

from kdjax.search import (
    Timetable,
    controlled,
    make_budget,
    partition,
)

THRESHOLD = 1e-3
# One group of four channels, of which one always stays, and a classifier.
TINY_LAYERS = (
    Layer(("conv",), None, "a", 3, 4, (3, 3), (8, 8), norm=True),
    Layer(("classifier",), "a", None, 4, 2, bias=True),
)


def tiny(target, steps=10, descent=8, rate=0.1):
    channels = tables.channels(TINY_LAYERS)
    architecture = types.SimpleNamespace(blocks=("a",))
    blocks = partition(architecture, channels)
    budget = make_budget(channels, blocks, flops=target)
    schedule = optax.constant_schedule(rate)
    optimizer = controlled(
        optax.sgd(schedule),
        budget,
        timetable=Timetable(steps, descent),
        learning_rate=schedule,
        threshold=THRESHOLD,
    )
    return budget, optimizer


def tiny_params(values, biases=(0.0,) * 4):
    return {"conv": {"norm": {"scale": jnp.array(values), "bias": jnp.array(biases)}}}


def test_the_first_step_by_hand():
    """In the 8 steps of the descent a scale of 1 would lose half of its value: 1/16 per step."""
    _, optimizer = tiny(0.5)
    biases = [0.4, -0.6, 5.0, 0.7]
    params = {**tiny_params([1.0, -0.5, 0.05, 2.0], biases), "other": jnp.array([3.0])}
    gradients = {**tiny_params([0.1, 0.2, 0.0, -1.0]), "other": jnp.array([4.0])}
    updates, state = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    # Each scale moves by a tenth of its gradient and shrinks by .0625; the strongest only moves.
    expected = [1 - 0.01 - 0.0625, -(0.5 + 0.02 - 0.0625), 0.0, 2.1]
    np.testing.assert_allclose(after["conv"]["norm"]["scale"], expected, atol=1e-6)
    # The biases shrink by the same factors, so that a channel's output keeps its form.
    biases = [0.4 * 0.9275 / 0.99, -0.6 * 0.4575 / 0.52, 0.0, 0.7]
    np.testing.assert_allclose(after["conv"]["norm"]["bias"], biases, atol=1e-6)
    np.testing.assert_allclose(after["other"], 3 - 0.4, atol=1e-6)
    assert state.controller.dead.tolist() == [False, False, True, False]
    # Three of four channels live, in both layers. Strength x coefficient is 1/16 over the rate.
    assert float(state.controller.share[0]) == pytest.approx(0.75)
    penalty = 0.0625 / 0.1 * (0.99 + 0.52 + 2.1)
    assert float(state.controller.penalty) == pytest.approx(penalty, rel=1e-5)
    assert int(state.controller.settled) == 0


def test_a_step_that_would_go_too_far_lands_on_the_target():
    """The whole step would kill three channels, but the weakest two are enough."""
    _, optimizer = tiny(0.55)
    params = tiny_params([0.05, 0.02, -0.03, 2.0])
    nothing = tiny_params([0.0] * 4)
    updates, state = jax.jit(optimizer.update)(nothing, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)["conv"]["norm"]["scale"]
    assert state.controller.dead.tolist() == [False, True, True, False]
    assert int(state.controller.settled) == 1
    # Only the part of the step is taken that brings .03 down to the threshold.
    np.testing.assert_allclose(after, [0.05 - (0.03 - THRESHOLD), 0, 0, 2.0], atol=1e-6)
    # After that nothing shrinks, and dead channels stay dead whatever their gradients are.
    pull = tiny_params([0.0, -5.0, 0.0, 0.0])
    params = tiny_params(after)
    updates, state = jax.jit(optimizer.update)(pull, state, params)
    again = optax.apply_updates(params, updates)["conv"]["norm"]["scale"]
    np.testing.assert_allclose(again, after, atol=1e-7)


def test_strength_grows_while_the_cost_is_above_plan():
    _, optimizer = tiny(0.25)
    params = tiny_params([9e3, 8e3, 7e3, 6e3])  # None of them dies.
    state = optimizer.init(params)
    strengths = []
    update = jax.jit(optimizer.update)
    for _ in range(5):
        updates, state = update(tiny_params([0.0] * 4), state, params)
        params = optax.apply_updates(params, updates)
        strengths.append(float(state.controller.strength[0]))
    assert strengths == sorted(strengths)
    # At step n the cost is .75 * n / 8 above its plan. The logarithm of the strength grows by 15
    # times this, plus 100 / 8 times its sum over steps.
    behind = 0.75 * np.arange(5) / 8
    answers = np.minimum(8, np.cumsum(behind) * 100 / 8 + 15 * behind)
    np.testing.assert_allclose(np.log(strengths) - np.log(strengths[0]), answers, rtol=1e-4)

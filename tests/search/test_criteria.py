"""Criteria: each measure is checked by hand, and a search with it meets its budget."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tables
from tables import Layer

from kdjax import models
from kdjax.search import (
    CRITERIA,
    Channels,
    Evidence,
    Timetable,
    alive_widths,
    controlled,
    make_budget,
    partition,
)

# Two layers write the same three channels, because their outputs are added.
LAYERS = (
    Layer(("first",), None, "a", 2, 3, norm=True),
    Layer(("second",), "a", "b", 3, 3, norm=True),
    Layer(("classifier",), "b", None, 3, 2, bias=True),
)
CHANNELS = tables.channels(LAYERS, (("a", "b"),))
KERNELS = {
    "first": [[3.0, 0.0, 0.0], [4.0, 0.0, 5.0]],  # Filters are columns, with norms 5, 0 and 5.
    "second": [[0.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],  # Norms 0, 2 and 2.
}


def tree(scales, kernels=KERNELS):
    return {
        layer: {
            "conv": {"kernel": jnp.array(kernels[layer])[None, None]},
            "norm": {"scale": jnp.array(scales[layer]), "bias": jnp.zeros(3)},
        }
        for layer in ("first", "second")
    }


PARAMS = tree({"first": [1.0, -2.0, 0.5], "second": [0.0, 1.0, -0.5]})
GRADIENTS = tree({"first": [1.0, 1.0, 4.0], "second": [9.0, 1.0, 4.0]})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scale", [1.0, 3.0, 1.0]),
        # Sums 1 x 1 + 0 x 9; -2 + 1; .5 x 4 - .5 x 4, where one layer's loss is the other's gain.
        ("taylor", [1.0, 1.0, 0.0]),
        # Norms are divided by the layers' means, 10/3 and 4/3, and summed.
        ("magnitude", [1.5, 1.5, 3.0]),
        # Distances of (3, 4), (0, 0) and (0, 5) are 5, sqrt(10), 5; those of 0, 2 and 2: 2, 2, 0.
        (
            "fpgm",
            np.array([5 + 10**0.5, 10, 5 + 10**0.5]) / ((20 + 2 * 10**0.5) / 3)
            + np.array([4, 2, 2]) / (8 / 3),
        ),
    ],
)
def test_by_hand(name, expected):
    evidence = Evidence(CHANNELS.scales(PARAMS), PARAMS, GRADIENTS)
    found = CRITERIA[name].measure(CHANNELS, evidence)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_filters_that_are_used_twice_count_once():
    twice = tables.channels((*LAYERS[:2], LAYERS[1], LAYERS[2]), (("a", "b"),))
    evidence = Evidence(jnp.zeros((2, 3)), tree(dict.fromkeys(KERNELS, [1.0] * 3)), None)
    expected = CRITERIA["magnitude"].measure(CHANNELS, evidence)
    np.testing.assert_allclose(CRITERIA["magnitude"].measure(twice, evidence), expected)


def test_chance_is_the_same_every_time_and_no_two_alike():
    evidence = Evidence(CHANNELS.scales(PARAMS), PARAMS, GRADIENTS)
    first, second = (CRITERIA["random"].measure(CHANNELS, evidence) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(first.tolist())) == 3 and min(first.tolist()) > 0


SHAPE = (8, 8, 3)


def searched(criterion):
    """Searches a narrow ResNet8; the loss pulls each scale to 1 with a different force."""
    architecture = models.create("resnet8", 4, width=0.5)
    channels = Channels.of(architecture, architecture.widths, SHAPE)
    blocks = partition(architecture, channels)
    budget = make_budget(channels, blocks, flops=0.4)
    rate = optax.constant_schedule(0.05)
    optimizer = controlled(
        optax.sgd(rate),
        budget,
        timetable=Timetable(40, 30),
        learning_rate=rate,
        threshold=1e-3,
        cost_exponent=0.5,
        criterion=criterion,
    )
    params = models.initialize(architecture.build(), 0, SHAPE)["params"]
    generator = np.random.default_rng(1)
    pull = jax.tree.map(lambda leaf: generator.uniform(0.1, 2.0, leaf.shape), params)

    @jax.jit
    def step(params, state):
        gradients = jax.tree.map(lambda leaf, force: (leaf - 1.5) * force, params, pull)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(40):
        params, state = step(params, state)
    return architecture, budget, params, state.controller


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_budget_is_met_and_who_is_worth_least_goes(criterion):
    architecture, budget, params, controller = searched(criterion)
    dead = np.asarray(controller.dead)
    widths = alive_widths(budget.channels, architecture.widths, dead)
    (share,) = budget.shares(widths).values()
    assert budget.allows(widths) and share >= 0.37
    np.testing.assert_array_equal(np.asarray(controller.died) > 0, dead)
    np.testing.assert_array_equal(np.asarray(budget.channels.scales(params))[:, dead], 0)
    np.testing.assert_array_equal(np.asarray(budget.channels.biases(params))[:, dead], 0)
    if criterion == "random":  # Only this criterion does not change during the search.
        importance = budget.channels.by_group(controller.importance)
        for name, gone in budget.channels.by_group(dead).items():
            if gone.any() and not gone.all():
                assert np.median(importance[name][gone]) < np.median(importance[name][~gone])


def test_an_unknown_criterion_is_refused():
    architecture = models.create("resnet8", 4, width=0.5)
    channels = Channels.of(architecture, architecture.widths, SHAPE)
    budget = make_budget(
        channels,
        partition(architecture, channels),
        flops=0.4,
    )
    rate = optax.constant_schedule(0.05)
    with pytest.raises(ValueError, match=r"search\.criterion is 'gradient': one of scale, taylor"):
        controlled(
            optax.sgd(rate),
            budget,
            timetable=Timetable(4, 2),
            learning_rate=rate,
            threshold=1e-3,
            criterion="gradient",
        )

"""Vectors in place of trees change nothing but the number of arrays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import config as configuration
from kdjax.config import FIELDS
from kdjax.train.program.layout import Layout
from kdjax.train.program.optimizer import make_optimizer
from kdjax.train.tasks.experiment import resolve


def layer(rng, *shape):
    kernel = rng.normal(size=shape).astype(np.float32)
    scale, bias = (rng.normal(size=shape[-1:]).astype(np.float32) for _ in range(2))
    return {"conv": {"kernel": kernel}, "norm": {"scale": scale, "bias": bias}}


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)
    blocks = {f"block{number}": layer(rng, 3, 3, 4, 4) for number in (1, 2, 10)}
    return {"stem": layer(rng, 3, 3, 3, 4), "student_1": blocks, "student_2": blocks}


@pytest.mark.parametrize("outputs_first", [False, True])
def test_splitting_undoes_joining(tree, outputs_first):
    layout = Layout(tree, outputs_first=outputs_first)
    vectors = layout.join(tree)
    chex.assert_trees_all_equal(layout.split(vectors), tree)
    chex.assert_trees_all_equal(jax.jit(layout.split_for_gradients)(vectors), tree)
    chex.assert_trees_all_equal(jax.jit(layout.join)(tree), vectors)
    assert isinstance(vectors["stem"]["kernel"], np.ndarray)
    assert len(jax.tree.leaves(vectors)) == 9


def test_kernels_of_convolutions_may_have_their_outputs_first(tree):
    kernel = tree["stem"]["conv"]["kernel"]
    tree["stem"]["classifier"] = {"kernel": np.ones((4, 2), np.float32)}
    vector = Layout(tree, outputs_first=True).join(tree)["stem"]["kernel"]
    first = np.concatenate([kernel[..., out].ravel() for out in range(kernel.shape[-1])])
    np.testing.assert_array_equal(vector, np.concatenate([np.ones(8), first]))


def test_neighbours_are_the_blocks_in_their_order(tree):
    vector = Layout(tree).join(tree)["student_1"]["scale"]
    expected = [
        tree["student_1"][name]["norm"]["scale"] for name in ("block1", "block2", "block10")
    ]
    np.testing.assert_array_equal(vector, np.concatenate(expected))


@pytest.mark.parametrize("outputs_first", [False, True])
def test_derivatives_are_those_of_the_tree(tree, outputs_first):
    layout = Layout(tree, outputs_first=outputs_first)

    def loss(tree):
        return sum(jnp.sum(jnp.sin(leaf) * leaf) for leaf in jax.tree.leaves(tree))

    gradients = jax.grad(lambda vectors: loss(layout.split_for_gradients(vectors)))(
        layout.join(tree)
    )
    chex.assert_trees_all_close(layout.split(gradients), jax.grad(loss)(tree), rtol=1e-6)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    "name", FIELDS["optimizer.name"].allowed.removeprefix("one of ").split(", ")
)
def test_optimizers_move_vectors_as_trees(tree, name, separate):
    config = configuration.default().optimizer
    config.update({"name": name, "weight_decay": 0.1, "clip_norm": 0.5})
    optimizer = make_optimizer(config, optax.constant_schedule(0.1), separate=separate)
    layout = Layout(tree)
    gradients = jax.tree.map(lambda leaf: np.float32(2) * leaf[..., ::-1], tree)
    results = []
    # As a tree; as vectors; as vectors by way of an optimiser that sees trees.
    for form, act in ((lambda x: x, optimizer), (layout.join, optimizer)):
        results.append(moved(act, form(tree), form(gradients)))
    results.append(moved(layout.optimizer(optimizer), layout.join(tree), layout.join(gradients)))
    chex.assert_trees_all_close(results[0][0], *(layout.split(r[0]) for r in results[1:]))
    for _, state in results[1:]:
        chex.assert_trees_all_close(layout.split_state(state), results[0][1], rtol=1e-5)
        chex.assert_trees_all_equal(layout.join_state(layout.split_state(state)), state)


def moved(optimizer, params, gradients):
    """Parameters and optimiser's state after three steps, on the host."""
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return jax.device_get((params, state))


def test_other_types_are_refused(tree):
    tree["stem"]["conv"]["kernel"] = tree["stem"]["conv"]["kernel"].astype(np.float16)
    with pytest.raises(AssertionError, match="float16"):
        Layout(tree)


def test_a_step_is_the_same_in_both_orders(small_config, monkeypatch):
    experiment = resolve(small_config)
    states = []
    for outputs_first in (False, True):
        monkeypatch.setattr(
            "kdjax.train.program.compiled.Layout",
            lambda shapes, *, outputs_first, first=outputs_first: Layout(
                shapes, outputs_first=first
            ),
        )
        runner = experiment.runner("ensemble", experiment.feed())
        state = runner.place(runner.initial_state(0))
        state, _, _ = runner.steps(state, runner.epoch(state, 0), 0, 2)
        states.append(runner.fetch(state))
    chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-6)

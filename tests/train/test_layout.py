"""Vectors in place of trees change nothing but the number of arrays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import config as configuration
from kdjax.config import FIELDS
from kdjax.train.program.layout import Layout, Layouts
from kdjax.train.program.online_teacher import COPIES
from kdjax.train.program.optimizer import make_optimizer
from kdjax.train.program.state import TrainState
from kdjax.train.program.term_modules import NETWORK
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


OPTIONS = [{}, {"outputs_first": True}, {"merged": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_splitting_undoes_joining(tree, options):
    layout = Layout(tree, **options)
    vectors = layout.join(tree)
    chex.assert_trees_all_equal(layout.split(vectors), tree)
    chex.assert_trees_all_equal(jax.jit(layout.split_for_gradients)(vectors), tree)
    chex.assert_trees_all_equal(jax.jit(layout.join)(tree), vectors)
    assert isinstance(vectors["kernel"], np.ndarray)
    assert vectors.keys() == {"kernel", "scale", "bias"}


@pytest.mark.parametrize("options", OPTIONS)
def test_vectors_come_apart_by_network(tree, options):
    layout = Layout(tree, **options)
    vectors = layout.join(tree)
    networks = jax.jit(layout.networks)(vectors)
    for name, network in tree.items():
        own = Layout({name: network}, **options)
        chex.assert_trees_all_equal(networks[name], own.join({name: network}))
    chex.assert_trees_all_equal(layout.whole(networks), vectors)
    state = optax.trace(0.9).init(vectors)
    apart = layout.networks_of_state((state, {"count": 3}))
    assert apart[0].trace.keys() == tree.keys() and apart[1] == {"count": 3}
    chex.assert_trees_all_equal(layout.whole_state(apart[0]), state)


@pytest.mark.parametrize("options", OPTIONS)
def test_each_network_s_numbers_are_summed_where_they_lie(tree, options):
    tree["student_3"] = {"scale": np.float32([np.nan, 1.0])}  # The NaN must not reach other sums.
    layout = Layout(tree, **options)
    sums = jax.jit(layout.sums)(layout.join(tree))
    expected = [
        sum(leaf.sum(dtype=np.float64) for leaf in jax.tree.leaves(tree[name]))
        for name in sorted(tree)
    ]
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)
    assert Layout({}).sums({}).shape == (0,)


def test_kernels_of_convolutions_may_have_their_outputs_first(tree):
    kernel = tree["stem"]["conv"]["kernel"]
    stem = {"stem": {**tree["stem"], "classifier": {"kernel": np.ones((4, 2), np.float32)}}}
    vector = Layout(stem, outputs_first=True).join(stem)["kernel"]
    first = np.concatenate([kernel[..., out].ravel() for out in range(kernel.shape[-1])])
    np.testing.assert_array_equal(vector, np.concatenate([np.ones(8), first]))


def test_neighbours_are_the_blocks_in_their_order(tree):
    vectors = Layout(tree).join(tree)
    networks = [[tree["stem"]]]
    networks += [
        [tree[student][f"block{number}"] for number in (1, 2, 10)]
        for student in ("student_1", "student_2")
    ]
    layers = [layer for network in networks for layer in network]
    for part, name in (("conv", "kernel"), ("norm", "scale"), ("norm", "bias")):
        expected = np.concatenate([layer[part][name].ravel() for layer in layers])
        np.testing.assert_array_equal(vectors[name], expected)


def test_merged_networks_have_each_layer_in_one_piece(tree):
    layout = Layout(tree, merged=True)
    vectors = layout.join(tree)
    np.testing.assert_array_equal(vectors["kernel"], Layout(tree).join(tree)["kernel"])
    for name in ("scale", "bias"):
        expected = [
            tree[student][f"block{number}"]["norm"][name]
            for number in (1, 2, 10)
            for student in ("student_1", "student_2")
        ]
        expected.append(tree["stem"]["norm"][name])  # "stem" is the last layer name.
        np.testing.assert_array_equal(vectors[name], np.concatenate(expected))


@pytest.mark.parametrize("options", OPTIONS)
def test_derivatives_are_those_of_the_tree(tree, options):
    layout = Layout(tree, **options)

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
    # The optimiser works on a tree; on vectors that it sees as trees; on vectors that it sees as
    # networks; and on plain vectors, if it does not clip each network's gradient by its own norm.
    results.append(moved(optimizer, tree, gradients))
    vectors, of_vectors = layout.join(tree), layout.join(gradients)
    results.append(moved(layout.optimizer(optimizer), vectors, of_vectors))
    results.append(moved(layout.optimizer_by_network(optimizer), vectors, of_vectors))
    if not separate:
        results.append(moved(optimizer, vectors, of_vectors))
    chex.assert_trees_all_close(results[0][0], *(layout.split(r[0]) for r in results[1:]))
    for _, state in results[1:]:
        chex.assert_trees_all_close(layout.split_state(state), results[0][1], rtol=1e-5)
        chex.assert_trees_all_equal(layout.join_state(layout.split_state(state)), state)


def moved(optimizer, params, gradients):
    """Returns parameters and the optimiser's state after three steps, on the host."""
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return jax.device_get((params, state))


def test_a_students_adapters_and_modules_of_terms_are_its_own(tree):
    adapter = {"kernel": np.ones((1, 1, 4, 4), np.float32)}
    tree |= {
        "adapters": {"student_1_block1": adapter, "student_2_block1": adapter},
        "terms": {"vid": {"student_2": adapter}},
    }
    layout = Layout(tree, by_student=True)
    vectors = layout.join(tree)
    chex.assert_trees_all_equal(layout.split(vectors), tree)
    networks = jax.jit(layout.networks)(vectors)
    assert networks.keys() == layout.names == {"stem", "student_1", "student_2"}
    sizes = {name: network["kernel"].size for name, network in networks.items()}
    assert sizes == {"stem": 108, "student_1": 3 * 144 + 16, "student_2": 3 * 144 + 2 * 16}
    chex.assert_trees_all_equal(layout.whole(networks), vectors)
    state = optax.trace(0.9).init(vectors)
    chex.assert_trees_all_equal(layout.whole_state(layout.networks_of_state(state)), state)


def test_only_copies_of_parameters_in_the_memory_become_vectors(tree):
    """The memory of a term may have any keys, also names of networks and of leaves."""
    layouts = Layouts.of({"params": tree})
    remembered = {name: {"kernel": np.ones(2), "scale": 3, "bias": 4} for name in tree}
    memory = {COPIES: tree, NETWORK: {"mine": remembered}}
    state = TrainState(0, np.zeros(2), tree, {}, optax.EmptyState(), memory)
    placed = layouts.join_state(state)
    assert placed.memory[COPIES].keys() == {"kernel", "scale", "bias"}
    assert placed.memory[NETWORK] is memory[NETWORK]
    chex.assert_trees_all_equal(layouts.split_state(placed), state)


def test_other_types_are_refused(tree):
    tree["stem"]["conv"]["kernel"] = tree["stem"]["conv"]["kernel"].astype(np.float16)
    with pytest.raises(AssertionError, match="float16"):
        Layout(tree)


def test_a_step_is_the_same_in_both_orders(small_config, monkeypatch):
    experiment = resolve(small_config)
    states = []
    for outputs_first in (False, True):
        monkeypatch.setattr(
            "kdjax.train.program.layout.Layout",
            lambda shapes, *, outputs_first, first=outputs_first, **options: Layout(
                shapes, outputs_first=first, **options
            ),
        )
        runner = experiment.runner("ensemble", experiment.feed())
        state = runner.place(runner.initial_state(0))
        state, _, _ = runner.steps(state, runner.epoch(state, 0), 0, 2)
        states.append(runner.fetch(state))
    chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-6)


def test_separate_networks_are_clipped_and_kept_apart_on_the_devices_too(small_config):
    small_config.update({"method": "independent"})
    small_config.optimizer.update(name="sgd", momentum=0.0, nesterov=False, weight_decay=0.0)
    small_config.optimizer.clip_norm = 1e-3  # The gradients have far larger norms.
    small_config.schedule.update(name="constant", learning_rate=0.5, warmup_epochs=0.0)
    small_config.faults.non_finite = "skip"
    experiment = resolve(small_config)
    runner = experiment.runner("independent", experiment.feed())
    before = runner.initial_state(0)
    jax.tree.leaves(before.params["student_2"])[0].flat[0] = np.nan
    after, metrics, _ = runner.steps(
        runner.place(before), runner.epoch(before, 0), 0, runner.steps_per_dispatch
    )
    after = runner.fetch(after)
    moves = jax.tree.map(np.subtract, after.params, before.params)
    assert optax.tree.norm(moves["student_1"]) == pytest.approx(0.5e-3, rel=1e-3)
    chex.assert_trees_all_equal(after.params["student_2"], before.params["student_2"])
    np.testing.assert_array_equal(runner.to_host(metrics)["gradient_fault"][0], [[0, 1]])

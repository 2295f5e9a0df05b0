"""The training step, compared with independently computed numbers, and its properties."""

import dataclasses
from pathlib import Path

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import config as configuration
from kdjax import models
from kdjax.data.batches import Batch
from kdjax.models import efficientnet
from kdjax.train.program import methods
from kdjax.train.program.objective import Examples
from kdjax.train.program.optimizer import make_optimizer
from kdjax.train.program.state import TrainState
from kdjax.train.program.step import dropout_key, evaluation_step, term_key, train_step
from kdjax.widths import WidthVector

GOLDEN = Path(__file__).parent.parent / "golden" / "train_step.npz"


def width_vector(stem, stages):
    groups = {"stem": stem}
    for number, width in enumerate(stages, start=1):
        groups[f"stage{number}"] = groups[f"stage{number}.block1.conv1"] = width
    return groups


VECTORS = tuple(width_vector(4, stages) for stages in ((4, 6, 8), (3, 5, 6), (2, 3, 4)))


def small_method(name="ensemble", vectors=VECTORS, classes=5, **overrides):
    config = configuration.default()
    config.update_from_flattened_dict(overrides)
    architecture = models.create("resnet8", classes)
    vectors = tuple(WidthVector({g: v[g] for g in architecture.widths}) for v in vectors)
    return methods.make(name, config, architecture, vectors, 1, None), config


def small_state(method, optimizer, seed=0, image_shape=(8, 8, 3)):
    variables = models.initialize(method.model, seed, image_shape)
    return TrainState(
        step=jnp.int32(0),
        key=jax.random.key_data(jax.random.key(seed)),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        optimizer_state=optimizer.init(variables["params"]),
    )


def small_batch(size=6, real=None, seed=0, shape=(8, 8, 3), classes=5):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(size, *shape)).astype(np.float32)
    labels = rng.integers(0, classes, size).astype(np.int32)
    return Batch(images, labels, np.arange(size) < (size if real is None else real))


def examples_of(batch):
    return Examples(batch.labels, batch.mask, None)


WEIGHTS = {"hard": 0.7, "feature": 0.15, "soft": 0.15}


def flat(tree):
    return {"/".join(p): v for p, v in flax.traverse_util.flatten_dict(tree).items()}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def golden_setup(golden):
    method, config = small_method(**{"optimizer.weight_decay": 0.01})
    optimizer = make_optimizer(
        config.optimizer, optax.constant_schedule(0.1), separate=method.separate
    )
    state = small_state(method, optimizer)
    params = {
        tuple(name.split("/")[1:]): array.astype(np.float32)
        for name, array in golden.items()
        if name.startswith("initial/")
    }
    chex.assert_trees_all_equal_shapes(flax.traverse_util.unflatten_dict(params), state.params)
    state = state.replace(params=flax.traverse_util.unflatten_dict(params))
    batch = Batch(
        golden["images"].astype(np.float32), golden["labels"].astype(np.int32), np.ones(6, bool)
    )
    return method, optimizer, state, batch


def test_losses_and_gradients_equal_pytorch(golden, golden_setup):
    method, _, state, batch = golden_setup

    def objective(params):
        outputs, _ = method.forward(
            {"params": params, "batch_stats": state.batch_stats}, None, batch.images, batch.mask
        )
        total, terms, _ = method.loss(outputs, examples_of(batch), WEIGHTS, {})
        return total.mean(), (outputs.logits, terms)

    (loss, (logits, terms)), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        state.params
    )
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-6)
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4, atol=1e-5)
    for name in ("hard", "feature", "soft"):
        np.testing.assert_allclose(terms[name], golden[f"term/{name}"], rtol=1e-4, atol=1e-6)
    for path, gradient in flat(gradients).items():
        expected = golden[f"gradient/{path}"]
        np.testing.assert_allclose(
            gradient, expected, rtol=1e-4, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=path
        )


def test_two_steps_equal_pytorch(golden, golden_setup):
    method, optimizer, state, batch = golden_setup
    step = jax.jit(
        lambda state: train_step(state, batch, method=method, optimizer=optimizer, weights=WEIGHTS)
    )
    state, metrics = step(state)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], golden["loss"], rtol=1e-6)
    for name in ("hard", "feature", "soft"):
        expected = golden[f"term/{name}"].sum(1)
        np.testing.assert_allclose(metrics[name][0], expected, rtol=1e-5, atol=1e-5)
    state, _ = step(state)
    assert int(state.step) == 2
    final = {**flat(state.params), **flat(state.batch_stats)}
    assert {f"final/{path}" for path in final} == {n for n in golden if n.startswith("final/")}
    for path, value in final.items():
        np.testing.assert_allclose(
            value, golden[f"final/{path}"], rtol=2e-4, atol=2e-5, err_msg=path
        )


@pytest.mark.parametrize("name", ["ensemble", "independent"])
def test_the_average_of_all_has_the_shares_of_the_teacher(name):
    """The shares apply to students taught together and alone, so that both can be compared."""
    shares = (0.0, 0.1, 0.9)
    method, _ = small_method(name, teacher_weights=shares)
    state, batch = small_state(method, optax.sgd(0.0)), small_batch(64)
    # Each image has a single colour: a fresh network gives almost the same logits for all noise.
    colours = 3 * np.random.default_rng(0).normal(size=(64, 1, 1, 3))
    batch = batch._replace(images=np.broadcast_to(colours, batch.images.shape).astype(np.float32))
    outputs = method.model.apply(state.variables, batch.images, train=False)
    logits = np.asarray(outputs.logits, np.float64)

    def right(weights):
        return np.sum(np.argmax(np.tensordot(weights, logits, 1), -1) == batch.labels)

    assert right(shares) != right((1 / 3,) * 3)
    found, count = evaluation_step(state.variables, batch, method=method)["ensemble_accuracy"]
    assert (found, count) == (right(shares), 64)


def test_padding_changes_nothing():
    method, config = small_method()
    optimizer = make_optimizer(config.optimizer, optax.constant_schedule(0.1), separate=False)
    state = small_state(method, optimizer)
    padded = small_batch(8, real=5)
    alone = jax.tree.map(lambda array: array[:5], padded)
    run = lambda batch: jax.jit(  # noqa: E731
        lambda state, batch: train_step(
            state, batch, method=method, optimizer=optimizer, weights=WEIGHTS
        )
    )(state, batch)
    state_padded, metrics_padded = run(padded)
    state_alone, metrics_alone = run(alone)
    assert float(metrics_padded["loss"][1]) == 5
    chex.assert_trees_all_close(metrics_padded, metrics_alone, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(state_padded.params, state_alone.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
        state_padded.batch_stats, state_alone.batch_stats, rtol=1e-5, atol=1e-6
    )


def gradients_of(terms, **overrides):
    """Returns the gradients of chosen terms with respect to all parameters."""
    method, _ = small_method(**overrides)
    variables = models.initialize(method.model, 0, (8, 8, 3))
    batch = small_batch()
    weights = {name: float(name in terms) for name in WEIGHTS}

    def objective(params):
        outputs, _ = method.forward({**variables, "params": params}, None, batch.images, batch.mask)
        return method.loss(outputs, examples_of(batch), weights, {})[0].mean()

    return jax.jit(jax.grad(objective))(variables["params"])


def test_feature_term_reaches_the_stem_only_if_asked():
    on = gradients_of(("feature",))
    off = gradients_of(("feature",), feature_gradient_to_stem=False)
    assert np.abs(on["stem"]["conv"]["conv"]["kernel"]).max() > 1e-3
    np.testing.assert_array_equal(off["stem"]["conv"]["conv"]["kernel"], 0)
    # Gradients of branches and adapters are the same either way.
    for name in ("student_2", "student_3", "adapters"):
        chex.assert_trees_all_close(on[name], off[name], rtol=1e-4, atol=1e-6)


def test_label_terms_reach_the_stem_either_way():
    on = gradients_of(("hard", "soft"))
    off = gradients_of(("hard", "soft"), feature_gradient_to_stem=False)
    assert np.abs(on["stem"]["conv"]["conv"]["kernel"]).max() > 1e-3
    chex.assert_trees_all_close(on, off, rtol=1e-4, atol=1e-6)


def test_feature_term_never_trains_the_pivot():
    gradient = gradients_of(("feature",))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["student_1"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["adapters"]))


def test_baselines_together_equal_separate_runs():
    """Three networks in one step learn the same as each in its own step, also with clipping."""
    overrides = {"optimizer.clip_norm": 0.5}
    together, config = small_method("independent", **overrides)
    optimizer = make_optimizer(config.optimizer, optax.constant_schedule(0.1), separate=True)
    state = small_state(together, optimizer)

    def run(method, state):
        step = jax.jit(
            lambda state, batch: train_step(
                state, batch, method=method, optimizer=optimizer, weights=WEIGHTS
            )
        )
        for number in range(3):
            state, metrics = step(state, small_batch(seed=number))
        return state, metrics

    after, metrics = run(together, state)
    for number in (1, 3):
        method, _ = small_method("independent", (VECTORS[number - 1],), **overrides)
        params = {"student_1": state.params[f"student_{number}"]}
        alone = TrainState(
            step=state.step,
            key=state.key,
            params=params,
            batch_stats={"student_1": state.batch_stats[f"student_{number}"]},
            optimizer_state=optimizer.init(params),
        )
        alone, alone_metrics = run(method, alone)
        name = f"student_{number}"
        chex.assert_trees_all_close(
            after.params[name], alone.params["student_1"], rtol=1e-4, atol=1e-5
        )
        chex.assert_trees_all_close(
            after.batch_stats[name], alone.batch_stats["student_1"], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            metrics["hard"][0][number - 1], alone_metrics["hard"][0][0], rtol=1e-4
        )


def test_bfloat16_keeps_parameters_statistics_and_losses_in_float32():
    method, config = small_method(**{"compute.dtype": "bfloat16"})
    optimizer = make_optimizer(config.optimizer, optax.constant_schedule(0.1), separate=False)
    state, metrics = jax.jit(
        lambda state, batch: train_step(
            state, batch, method=method, optimizer=optimizer, weights=WEIGHTS
        )
    )(small_state(method, optimizer), small_batch())
    for leaf in jax.tree.leaves((state.params, state.batch_stats, metrics)):
        assert leaf.dtype == jnp.float32
    exact, config = small_method()
    reference, _ = jax.jit(
        lambda state, batch: train_step(
            state, batch, method=exact, optimizer=optimizer, weights=WEIGHTS
        )
    )(small_state(exact, optimizer), small_batch())
    differences = [
        np.abs(a - b).max()
        for a, b in zip(
            jax.tree.leaves(state.batch_stats), jax.tree.leaves(reference.batch_stats), strict=True
        )
    ]
    assert 0 < max(differences) < 0.05


# Random drops


def test_drops_follow_the_step_and_are_off_in_evaluation():
    architecture = models.create("efficientnet_b0", 5, width=0.125)
    architecture = dataclasses.replace(architecture, depth=0.3, dropout=0.5)
    widths = efficientnet.width_vector(0.125, 0.3, 8)
    architecture = dataclasses.replace(architecture, widths=widths)
    method = methods.make("independent", configuration.default(), architecture, (widths,), 1, None)
    optimizer = optax.sgd(0.0)
    state, batch = small_state(method, optimizer), small_batch(4)

    @jax.jit
    def loss(step):
        _, metrics = train_step(
            state.replace(step=step), batch, method=method, optimizer=optimizer, weights={}
        )
        return metrics["loss"][0]

    assert loss(jnp.int32(0)) == loss(jnp.int32(0))
    assert abs(loss(jnp.int32(0)) - loss(jnp.int32(1))) > 1e-4


def test_a_network_that_drops_nothing_takes_no_key():
    method, _ = small_method("independent", VECTORS[:1])
    assert not method.model.architecture.drops
    state, batch = small_state(method, optax.sgd(0.0)), small_batch(4)

    def forward(key):
        return method.forward(state.variables, None, batch.images, batch.mask, key)

    assert "random" not in str(jax.make_jaxpr(forward)(jax.random.key(0)))


def test_devices_drop_different_parts():
    method, _ = small_method("independent", VECTORS[:1])
    state = small_state(method, optax.sgd(0.0))
    keys = jax.vmap(lambda _: jax.random.key_data(dropout_key(state, "d")), axis_name="d")(
        jnp.arange(3)
    )
    assert len({tuple(np.asarray(key).tolist()) for key in keys}) == 3


def test_an_example_has_the_same_random_numbers_on_any_device_and_others_in_the_next_step():
    state = TrainState(jnp.int32(3), jax.random.key_data(jax.random.key(0)), {}, {}, {})

    def drawn(state, index):
        key = term_key(state)
        keys = Examples(None, None, None, indices=np.array(index), key=key).keys
        return np.asarray(jax.vmap(jax.random.uniform)(keys))

    whole = drawn(state, [4, 0, 7, 1])
    np.testing.assert_array_equal(drawn(state, [7, 4]), whole[[2, 0]])
    assert len({*whole, *drawn(state.replace(step=jnp.int32(4)), [4, 0, 7, 1])}) == 8
    assert not np.array_equal(
        *map(jax.random.key_data, (term_key(state), dropout_key(state, None)))
    )

"""Terms with modules and a memory: their values, their place in the state, several devices."""

import contextlib

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import config as configuration
from kdjax import losses, models
from kdjax.data.batches import Batch
from kdjax.models.execution import Mode
from kdjax.models.initialize import draw
from kdjax.train.program import methods, term_modules
from kdjax.train.program.objective import Examples
from kdjax.train.program.state import TrainState
from kdjax.train.program.step import train_step
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.tasks.experiment import resolve
from kdjax.train.terms import crd, review_kd, vid

RNG = np.random.default_rng(1)
MODE = Mode(True, None, jnp.float32, None)
LEARNED = {"weights.vid": 1.0, "weights.review_kd": 5.0, "weights.crd": 0.8, "crd.negatives": 20}


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def applied(module, *given):
    """Returns a module's output in training, and its parameters."""
    variables = module.init(jax.random.key(0), *given, mode=MODE)
    returned, _ = module.apply(variables, *given, mode=MODE, mutable=["batch_stats"])
    return returned, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


def test_vid_predicts_the_teachers_map_by_three_convolutions():
    student, teacher = normal(3, 4, 5, 6), normal(3, 4, 5, 8)
    parts = vid.parts(variance=5.0)
    returned, params = applied(parts.module, student, teacher)
    mean = student.astype(np.float64)
    for number in range(1, 4):
        mean = mean @ params[f"conv{number}"]["kernel"][0, 0]
        mean = np.maximum(mean, 0) if number < 3 else mean
    expected = 0.5 * ((mean - teacher) ** 2 / 5 + np.log(5))
    np.testing.assert_allclose(parts.loss(*returned), expected.mean((1, 2, 3)), rtol=1e-5)


def normalised(x):
    axes = (0, 1, 2)
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)


def convolved(x, kernel):
    """Returns a convolution at stride 1 with zero padding, as a sum over the kernel's positions."""
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def test_review_fuses_each_map_with_the_later_ones():
    students = [normal(4, 4, 4, 3), normal(4, 2, 2, 6)]
    teachers = [normal(4, 4, 4, 5), normal(4, 2, 2, 7)]
    parts = review_kd.parts()
    returned, params = applied(parts.module, students, teachers)
    maps = [*students, students[-1].mean((1, 2), keepdims=True)]
    expected, later = [], None
    for number in (3, 2, 1):
        own = params[f"fusion{number}"]
        x = normalised(convolved(maps[number - 1].astype(np.float64), own["conv1"]["kernel"]))
        if later is not None:
            later = later.repeat(2, axis=1).repeat(2, axis=2)
            both = np.concatenate([x, later], -1)
            attention = both @ own["attention"]["kernel"][0, 0] + own["attention"]["bias"]
            shares = 1 / (1 + np.exp(-attention))
            x = x * shares[..., :1] + later * shares[..., 1:]
        later = x
        expected.insert(0, normalised(convolved(x, own["conv2"]["kernel"])))
    # Maps are fused with as many channels as the student's last map has.
    assert later.shape[-1] == 6
    for fused, one in zip(returned[0], expected, strict=True):
        np.testing.assert_allclose(fused, one, rtol=1e-4, atol=1e-4)
    pooled = [*teachers, teachers[-1].mean((1, 2), keepdims=True)]
    np.testing.assert_allclose(
        parts.loss(*returned),
        losses.review_kd([one.astype(np.float32) for one in expected], pooled),
        rtol=1e-3,
    )


def small_method(scales=(1.0, 0.5), **changes):
    config = configuration.default()
    config.update_from_flattened_dict(changes)
    architecture = models.create("resnet8", 5, width=0.25)
    vectors = models.student_vectors(architecture, scales)
    return methods.make("ensemble", config, architecture, vectors, 1, None), config


def small_start(method, seed=0, examples=12, image_shape=(8, 8, 3)):
    """Returns an optimiser and the initial state of a method with learned terms."""
    beginning = method.initial(image_shape, examples)
    variables = draw(beginning.start, seed)
    optimizer = optax.sgd(0.1)
    memory = {term_modules.NETWORK: term_modules.initial_memories(beginning, seed)}
    key = jax.random.key_data(jax.random.key(seed))
    state = TrainState(
        jnp.int32(0),
        key,
        variables["params"],
        variables["batch_stats"],
        optimizer.init(variables["params"]),
        memory,
    )
    return optimizer, state


def test_learned_terms_train_and_remember_and_padding_changes_nothing():
    method, config = small_method(**LEARNED)
    optimizer, state = small_start(method)
    weights = {name: jnp.float32(weight) for name, weight in config.weights.items() if weight > 0}

    @jax.jit
    def step(state, batch):
        return train_step(state, batch, method=method, optimizer=optimizer, weights=weights)

    real, indices = np.arange(8) < 5, np.array([3, 7, 1, 0, 9, 0, 0, 0], np.int32)
    padded = Batch(normal(8, 8, 8, 3), np.arange(8, dtype=np.int32) % 5, real, indices)
    after, metrics = step(state, padded)
    # The modules have been trained, and the memory has changed at the examples of the batch.
    before, moved = (
        flax.traverse_util.flatten_dict(s.params[term_modules.NETWORK]) for s in (state, after)
    )
    # In vid the few channels behind a ReLU may all be 0 at the start, so not every kernel moves.
    still = {path for path in before if np.array_equal(before[path], moved[path])}
    assert {path[0] for path in before} == {"vid", "review_kd", "crd"}
    assert {path[0] for path in still if path[-1] == "kernel"} <= {"vid"}
    trained = {(path[0], path[-1]) for path in before.keys() - still}
    assert trained >= {("vid", "kernel"), ("vid", "variance")}
    before, bank = (
        np.asarray(s.memory[term_modules.NETWORK]["crd"]["student_2"].student)
        for s in (state, after)
    )
    assert set(np.flatnonzero(np.any(before != bank, axis=1))) == {3, 7, 1, 0, 9}
    np.testing.assert_allclose(np.linalg.norm(bank[[0, 3]], axis=1), 1, rtol=1e-5)
    # The pivot has no teacher of maps.
    assert metrics["crd"][0][0] == 0 and np.all(metrics["crd"][0][1:] > 0)
    compact, compact_metrics = step(state, jax.tree.map(lambda leaf: leaf[:5], padded))
    chex.assert_trees_all_close(after, compact, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(metrics, compact_metrics, rtol=1e-4, atol=1e-4)


def test_crd_is_the_loss_of_its_negatives_with_each_students_memory():
    parts = crd.parts(dim=6, negatives=4, momentum=0.5, temperature=0.07)
    student, teacher = normal(3, 6), normal(3, 6)
    shapes = (jax.ShapeDtypeStruct((1, 6), jnp.float32),) * 2
    memory = parts.memory(*shapes, examples=9, key=jax.random.key(4))
    indices = np.array([2, 8, 5])
    examples = Examples(None, np.ones(3, bool), None, None, indices, jax.random.key(0))
    values, after = parts.loss(student, teacher, memory=memory, examples=examples)
    drawn = np.stack(
        [
            losses.crd_negatives(key, np.array([index]), examples=9, count=4)[0]
            for key, index in zip(examples.keys, indices, strict=True)
        ]
    )
    given = (student, teacher, memory, indices, drawn)
    np.testing.assert_allclose(values, losses.crd(*given, temperature=0.07), rtol=1e-5)
    expected = losses.crd_update(memory, student, teacher, *given[3:], temperature=0.07)
    chex.assert_trees_all_close(after, expected, rtol=1e-5)
    assert float(after.student_normaliser) > 0


def run(config, devices, steps):
    """Returns the state and the metrics of each step, on the host."""
    config.compute.devices = devices
    experiment = resolve(config)
    runner = experiment.runner("ensemble", experiment.feed())
    state = runner.place(runner.initial_state(0))
    inputs, metrics = runner.epoch(state, 0), []
    for step in range(steps):
        state, found, _ = runner.steps(state, inputs, step, steps)
        metrics.append(runner.to_host(found))
    return runner.fetch(state), metrics


@pytest.mark.parametrize("rule", ["ema", "gate"])
def test_one_device_equals_eight_for_what_terms_learn_and_remember(small_config, rule):
    # Both rules are tested, the terms with one of them.
    terms = {"weights.review_kd": 5.0, "weights.crd": 0.8} if rule == "ema" else {}
    changes = {"compute.batch_norm": "global", "batch_size": 40, "ensemble.rule": rule, **terms}
    small_config.update_from_flattened_dict(changes)
    # 81 training images: the third batch has one, so that seven of eight devices get only padding.
    one, one_metrics = run(small_config, 1, 3)
    eight, eight_metrics = run(small_config, 8, 3)
    chex.assert_trees_all_close(one.params, eight.params, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(one.memory, eight.memory, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(one.batch_stats, eight.batch_stats, rtol=1e-4, atol=1e-4)
    for name in ("loss", *("crd", "review_kd")) if terms else ("loss", "gate"):
        for a, b in zip(one_metrics, eight_metrics, strict=True):
            np.testing.assert_allclose(a[name][0], b[name][0], rtol=1e-3)


def test_modules_are_there_with_their_terms_alone_and_never_in_a_student(small_config):
    def networks(**weights):
        small_config.update_from_flattened_dict({f"weights.{n}": w for n, w in weights.items()})
        experiment = resolve(small_config)
        runner = experiment.runner("ensemble", experiment.feed())
        return experiment, runner.initial_state(0)

    _, plain = networks()
    assert term_modules.NETWORK not in plain.params and plain.memory == {}
    experiment, state = networks(vid=1.0, review_kd=1.0, crd=1.0)
    assert sorted(state.params[term_modules.NETWORK]) == ["crd", "review_kd", "vid"]
    # Only review_kd has batch normalisation.
    assert list(state.batch_stats[term_modules.NETWORK]) == ["review_kd"]
    without = {name: tree for name, tree in state.params.items() if name != term_modules.NETWORK}
    chex.assert_trees_all_equal(without, plain.params)
    shape = experiment.dataset.image_shape
    student = models.extract_student(state.variables, 2)
    own = models.initialize(experiment.architecture.build(experiment.student_widths[1]), 0, shape)
    chex.assert_trees_all_equal(student, own)


def test_what_terms_remember_is_kept_in_checkpoints(small_config, tmp_path):
    small_config.update_from_flattened_dict({"weights.crd": 0.8, "crd.dim": 4, "seeds": (3,)})
    experiment = resolve(small_config)
    state = experiment.runner("ensemble", experiment.feed()).initial_state(3)
    bank = state.memory[term_modules.NETWORK]["crd"]["student_2"]
    assert bank.student.shape == (81, 4) and np.abs(bank.student).max() <= np.sqrt(3 / 4)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save("last", state, experiment.record)
        checkpoints.wait()
        found, _ = checkpoints.restore("last", state, experiment.record)
    chex.assert_trees_all_equal(found, state)
    assert type(found.memory[term_modules.NETWORK]["crd"]["student_2"]) is losses.CRDMemory


def test_an_interrupted_run_is_the_run(small_config, tmp_path):
    changes = {"ensemble.rule": "ema", "data.mixup": 0.4, "weights.crd": 0.8, "crd.dim": 4}
    small_config.update_from_flattened_dict(changes)
    experiment = resolve(small_config)
    runner = experiment.runner("ensemble", experiment.feed())
    initial = runner.initial_state(0)

    def go_on(state, first, stop):
        state, inputs = runner.place(state), runner.epoch(runner.place(state), first)
        for step in range(first, stop):
            state, metrics, _ = runner.steps(state, inputs, step, stop)
        return runner.fetch(state), runner.to_host(metrics)

    straight, metrics = go_on(initial, 0, 5)
    halfway, _ = go_on(initial, 0, 2)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save("last", halfway, experiment.record)
        checkpoints.wait()
        halfway, _ = checkpoints.restore("last", initial, experiment.record)
    resumed, resumed_metrics = go_on(halfway, 2, 5)
    chex.assert_trees_all_equal(resumed, straight)
    chex.assert_trees_all_equal(resumed_metrics, metrics)
    assert sorted(straight.memory) == ["copies", "terms"]


def test_copies_are_averages_of_the_parameters(small_config):
    small_config.update_from_flattened_dict({"ensemble.rule": "ema", "ensemble.ema_decay": 0.6})
    experiment = resolve(small_config)
    runner = experiment.runner("ensemble", experiment.feed())
    state = runner.place(runner.initial_state(0))
    inputs, expected = runner.epoch(state, 0), None
    for step, kept in enumerate((0.0, 0.5, 0.6)):  # 1 - 1 / (step + 1), at most 0.6.
        state, metrics, _ = runner.steps(state, inputs, step, 6)
        found = runner.fetch(state)
        if expected is None:
            expected = found.params
        expected = jax.tree.map(
            lambda old, new, kept=kept: kept * old + (1 - kept) * new, expected, found.params
        )
        chex.assert_trees_all_close(found.memory["copies"], expected, rtol=1e-5, atol=1e-7)
    # At the first step the copies equal the students, and each of two is taught by the other.
    assert np.isfinite(runner.to_host(metrics)["soft"][0]).all()


def test_the_gate_learns_from_labels_and_the_students_do_not_feel_it():
    method, _ = small_method(**{"ensemble.rule": "gate"})
    plain, _ = small_method()
    _, state = small_start(method)
    batch = Batch(normal(6, 8, 8, 3), np.arange(6) % 5, np.ones(6, bool), np.arange(6))
    examples = Examples(batch.labels, batch.mask, None)
    weights = {"hard": 1.0, "soft": 0.0, "feature": 0.0}

    def total(params, method):
        variables = {"params": params, "batch_stats": state.batch_stats}
        seen, _ = method.forward(variables, None, batch.images, batch.mask)
        judged = method.loss(seen, examples, weights, {})
        return judged.total.sum(), (seen, judged)

    def gradient_of(method):
        return jax.jit(jax.grad(lambda params: total(params, method), has_aux=True))(state.params)

    gradient, (seen, judged) = gradient_of(method)
    shares = term_modules.only(seen.projected["ensemble.gate"])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    gated = np.einsum("bs,sbk->bk", shares, seen.logits)
    rows = np.arange(6)
    expected = np.log(np.exp(gated).sum(1)) - gated[rows, rows % 5]
    np.testing.assert_allclose(judged.terms["gate"], expected, rtol=1e-4)
    of_gate = gradient.pop(term_modules.NETWORK)
    assert np.abs(of_gate["ensemble.gate"]["student_1"]["dense"]["kernel"]).max() > 0
    alone, _ = gradient_of(plain)
    alone.pop(term_modules.NETWORK)
    chex.assert_trees_all_close(gradient, alone, rtol=1e-5, atol=1e-6)


def test_a_memory_is_another_for_every_seed_and_student():
    method, _ = small_method((1.0, 0.75, 0.5), **{"weights.crd": 1.0, "crd.dim": 3})
    banks = [small_start(method, seed)[1].memory[term_modules.NETWORK]["crd"] for seed in (0, 1)]
    flat = [flax.traverse_util.flatten_dict(bank) for bank in banks]
    first = [bank.student.ravel() for one in flat for bank in one.values()]
    assert len(first) == 4 and len({tuple(values) for values in first}) == 4

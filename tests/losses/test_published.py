"""Distillation losses against the authors' code, and gradients against float64 differences.

The numbers are results of the original PyTorch functions, in float64, on the inputs of
reference.py. The functions are those of RepDistiller, mdistiller and logit-standardization-KD; DIST
and NKD were retyped from their authors' code.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import EMBEDDINGS, LABELS, LOGITS, MAPS

from kdjax import losses


def float32(*arrays):
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def with_labels(loss, **options):
    return functools.partial(lambda z, t: loss(z, t, jnp.asarray(LABELS), **options))


def standardized(z, t):
    ours, theirs = losses.standardize_logits(z), losses.standardize_logits(t)
    return losses.soft_target_kl(ours, theirs, temperature=2.0)


def cross_entropy(z, t):
    return losses.hard_label_cross_entropy(z, LABELS)


def partial(loss, **options):
    return functools.partial(loss, **options)


PUBLISHED = {
    "cross entropy": (cross_entropy, LOGITS, 4.0778812226673),
    "KD, T 2": (partial(losses.soft_target_kl, temperature=2.0), LOGITS, 4.35516022965907),
    "KD, T 4": (partial(losses.soft_target_kl, temperature=4.0), LOGITS, 5.59244429550562),
    "DKD": (with_labels(losses.dkd), LOGITS, 44.3993797113303),
    "DKD, target": (with_labels(losses.dkd, other_weight=0.0), LOGITS, 0.407493270732118),
    "DKD, others": (
        with_labels(losses.dkd, target_weight=0.0, other_weight=1.0),
        LOGITS,
        5.49898580507478,
    ),
    "DIST": (losses.dist, LOGITS, 2.02476913866946),
    "DIST, inter": (partial(losses.dist, intra_weight=0.0), LOGITS, 1.02487075301718),
    "DIST, intra": (partial(losses.dist, inter_weight=0.0), LOGITS, 0.999898385652279),
    "NKD": (with_labels(losses.nkd), LOGITS, 5.86846301436829),
    "NKD, target": (with_labels(losses.nkd, other_weight=0.0), LOGITS, 0.195069416004852),
    "LSKD": (standardized, LOGITS, 0.863109927090729),
    "MLKD, class": (partial(losses.mlkd_class, temperature=2.0), LOGITS, 0.0243819761230416),
    "MLKD, batch": (partial(losses.mlkd_batch, temperature=2.0), LOGITS, 0.0430244483420232),
    "FitNet": (losses.feature_mse, MAPS[1], 0.979020322813546),
    "AT, 1": (losses.attention_transfer, MAPS[0], 7.21262178142185e-05),
    "AT, 2": (losses.attention_transfer, MAPS[1], 0.000327382592357991),
    "AT, 3": (losses.attention_transfer, MAPS[2], 0.0177698449499494),
    "SP": (losses.similarity_preserving, MAPS[2], 0.310696120547659),
    "RKD": (losses.rkd, EMBEDDINGS, 3.22642998955147),
    "PKT": (losses.pkt, EMBEDDINGS, 0.0319846840730041),
    "FSP, 1": (losses.fsp, (MAPS[0][0], MAPS[1][0], MAPS[0][1], MAPS[1][1]), 0.00609773327010122),
    "FSP, 2": (losses.fsp, (MAPS[1][0], MAPS[2][0], MAPS[1][1], MAPS[2][1]), 0.222009322868343),
    "VID": (partial(losses.vid, variance=5.0), MAPS[1], 0.902620988498405),
    "VID, per channel": (partial(losses.vid, variance=[5.0] * 8), MAPS[1], 0.902620988498405),
    "ReviewKD": (
        lambda *maps: losses.review_kd(maps[:3], maps[3:]),
        (*(s for s, _ in MAPS), *(t for _, t in MAPS)),
        2.11345131509724,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_value_is_that_of_the_authors_code(name):
    loss, inputs, expected = PUBLISHED[name]
    rows = loss(*float32(*inputs))
    assert rows.shape == (6,)
    assert rows.dtype == jnp.float32
    assert float(jnp.mean(rows)) == pytest.approx(expected, rel=1e-5)


# Name -> the loss as a mean, the same in float64, inputs.
GRADIENTS = {
    "KD": (partial(losses.soft_target_kl, temperature=4.0), reference.soft_target_kl, LOGITS),
    "DKD": (with_labels(losses.dkd), reference.dkd, LOGITS),
    "NKD": (
        with_labels(losses.nkd, temperature=3.0),
        partial(reference.nkd, temperature=3.0),
        LOGITS,
    ),
    "DIST": (
        partial(losses.dist, inter_weight=2.0, temperature=4.0),
        partial(reference.dist, inter_weight=2.0, temperature=4.0),
        LOGITS,
    ),
    "LSKD": (
        standardized,
        lambda z, t: reference.soft_target_kl(
            reference.standardize(z), reference.standardize(t), 2.0
        ),
        LOGITS,
    ),
    "MLKD, class": (losses.mlkd_class, reference.mlkd_class, LOGITS),
    "MLKD, batch": (losses.mlkd_batch, reference.mlkd_batch, LOGITS),
    "AT": (losses.attention_transfer, reference.attention_transfer, MAPS[2]),
    "SP": (losses.similarity_preserving, reference.similarity_preserving, MAPS[2]),
    "NST": (losses.nst, reference.nst, (MAPS[2][0], MAPS[1][1])),
    "RKD": (losses.rkd, reference.rkd, EMBEDDINGS),
    "PKT": (losses.pkt, reference.pkt, EMBEDDINGS),
    "VID": (partial(losses.vid, variance=5.0), reference.vid, MAPS[1]),
    "ReviewKD": (
        lambda s, t: losses.review_kd([s], [t]),
        lambda s, t: reference.review_kd([s], [t]),
        MAPS[0],
    ),
    "FSP": (losses.fsp, reference.fsp, (MAPS[0][0], MAPS[1][0], MAPS[0][1], MAPS[1][1])),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_that_of_float64_differences(name):
    loss, exact, inputs = GRADIENTS[name]

    @jax.jit
    def compiled(*arrays):
        return jax.value_and_grad(
            lambda *arrays: jnp.mean(loss(*arrays)), argnums=tuple(range(len(arrays)))
        )(*arrays)

    value, gradients = compiled(*float32(*inputs))
    assert float(value) == pytest.approx(exact(*inputs), rel=2e-5)
    generator, step = np.random.default_rng(0), 1e-5
    for position, gradient in enumerate(gradients):
        # Half of the direction is the gradient itself, so that the derivative is not near 0.
        direction = generator.standard_normal(gradient.shape)
        direction *= np.linalg.norm(gradient) / np.linalg.norm(direction)
        direction += np.asarray(gradient, np.float64)

        def moved(by, position=position, direction=direction):
            changed = list(inputs)
            changed[position] = inputs[position] + by * direction
            return exact(*changed)

        expected = (moved(step) - moved(-step)) / (2 * step)
        actual = np.sum(np.asarray(gradient, np.float64) * direction)
        assert actual > 0
        assert actual == pytest.approx(expected, rel=2e-4), f"argument {position}"


@pytest.mark.parametrize("name", GRADIENTS)
def test_bfloat16_is_computed_in_float32(name):
    loss, exact, inputs = GRADIENTS[name]
    rounded = [jnp.asarray(array, jnp.bfloat16) for array in inputs]
    rows = loss(*rounded)
    assert rows.dtype == jnp.float32
    expected = exact(*(np.asarray(array, np.float64) for array in rounded))
    assert float(jnp.mean(rows)) == pytest.approx(expected, rel=2e-5)


def test_standardized_logits_are_z_scores():
    z = LOGITS[0] + 100.0
    actual = losses.standardize_logits(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(actual, reference.standardize(z), atol=1e-5)
    np.testing.assert_array_equal(losses.standardize_logits(jnp.full((2, 5), 3.0)), 0.0)


def test_one_teacher_and_one_set_of_labels_serve_many_students():
    z, t = float32(*LOGITS)
    students = jnp.stack([z, 2.0 * z])
    for loss in (losses.dkd, losses.nkd):
        actual = loss(students, t, LABELS)
        assert actual.shape == (2, 6)
        np.testing.assert_allclose(actual[1], loss(2.0 * z, t, LABELS), rtol=1e-6)


def test_maps_of_different_sizes_are_averaged_to_the_smaller():
    large, small = float32(MAPS[0][0], MAPS[1][1])
    pooled = jnp.asarray(reference.mean_pool(MAPS[0][0], 4), jnp.float32)
    for loss in (losses.attention_transfer, losses.nst):
        np.testing.assert_allclose(loss(large, small), loss(pooled, small), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(loss(small, large), loss(small, pooled), rtol=1e-5, atol=1e-7)


def test_windows_of_uneven_sizes_overlap_by_one():
    # 5 -> 2 takes rows 0 to 2 and 2 to 4; 3 -> 2 takes columns 0 to 1 and 1 to 2.
    pool_to = losses.pooling.pool_to
    values = jnp.arange(15.0).reshape(1, 5, 3, 1)
    actual = pool_to(values, 2, 2)[0, :, :, 0]
    np.testing.assert_allclose(actual, [[3.5, 4.5], [9.5, 10.5]], rtol=1e-6)


def test_each_scale_of_a_review_is_left_out_where_it_is_not_smaller():
    # Of the smaller scales of a 2 x 2 map only the mean over all pixels remains, with weight 1/2:
    # (1 + 0 / 2) / 1.5.
    student = jnp.array([1.0, -1.0, -1.0, 1.0]).reshape(1, 2, 2, 1)
    actual = losses.review_kd([student], [jnp.zeros((1, 2, 2, 1))])
    np.testing.assert_allclose(actual, [1.0 / 1.5], rtol=1e-6)


# Limits


def pulled_back(loss):
    """Returns a compiled function: values, and gradients of their mean in all arguments."""

    @jax.jit
    def compiled(*arrays):
        values, pull = jax.vjp(loss, *arrays)
        return values, pull(jnp.full(6, 1 / 6))

    return compiled


@pytest.mark.parametrize("size", [1e4, 1e38])
@pytest.mark.parametrize("name", ["KD", "DKD", "NKD", "DIST", "LSKD", "MLKD, class", "MLKD, batch"])
def test_opposite_extreme_logits_give_finite_values_and_gradients(name, size):
    compiled = pulled_back(GRADIENTS[name][0])
    z = jnp.sign(jnp.asarray(LOGITS[0], jnp.float32)) * size
    for t in (-z, z, jnp.zeros_like(z)):
        values, gradients = compiled(z, t)
        assert np.isfinite(values).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "KD"])
def test_zero_and_equal_rows_give_finite_values_and_gradients(name):
    loss, _, inputs = GRADIENTS[name]
    compiled = pulled_back(loss)
    zeros = [jnp.zeros(array.shape) for array in inputs]
    ones = [jnp.ones(array.shape) for array in inputs]
    for arrays in (zeros, ones, [float32(inputs[0])[0], *zeros[1:]]):
        values, gradients = compiled(*arrays)
        assert np.isfinite(values).all()
        for gradient in gradients:
            assert np.isfinite(gradient).all()
            assert np.abs(gradient).max() < 1e3


# Errors


def test_arguments_that_do_not_fit_are_named():
    z, four = jnp.zeros((6, 10)), jnp.zeros((6, 4, 4, 3))
    cases = [
        (lambda: losses.dist(z, z[:, :5]), r"student_logits .* \(6, 10\).*teacher_logits \(6, 5\)"),
        (lambda: losses.dist(z, z, temperature=0.0), "temperature is 0.0: it must be from 0.001"),
        (lambda: losses.mlkd_class(z, z[:3]), "they must be equal"),
        (lambda: losses.mlkd_batch(z, z, temperature=-1), "temperature is -1"),
        (lambda: losses.dkd(z, z, LABELS, temperature=0), "temperature is 0"),
        (lambda: losses.dkd(z, z, LABELS + 1), r"labels hold 10 \(entry 3\).*must be in 0\.\.9"),
        (lambda: losses.nkd(z, z, LABELS - 1), r"labels hold -1 \(entry 0\).*must be in 0\.\.9"),
        (lambda: losses.nkd(z, z, LABELS * 1.0), "they must be integers"),
        (lambda: losses.standardize_logits(z[:, :1]), "2 classes or more"),
        (lambda: losses.standardize_logits(z, epsilon=0.0), "epsilon is 0.0"),
        (lambda: losses.attention_transfer(four, z), r"teacher_map has shape \(6, 10\)"),
        (lambda: losses.nst(four, four[:2]), "differ in their batch size"),
        (lambda: losses.similarity_preserving(four, four[:2]), "with the same batch"),
        (lambda: losses.rkd(z, z[:4]), "teacher_embedding"),
        (lambda: losses.pkt(z, z, where=jnp.ones(6)), r"where has shape \(6,\) and dtype float32"),
        (lambda: losses.pkt(z, z, where=jnp.ones(5, bool)), r"it must be \[6\] booleans"),
        (lambda: losses.vid(four, four[..., :2], 1.0), r"mean_map.*teacher_map \(6, 4, 4, 2\)"),
        (lambda: losses.vid(four, four, jnp.ones(4)), r"variance has shape \(4,\).*\[3\]"),
        (lambda: losses.review_kd([four, four], [four, four[:, :2]]), "pair 1: .*teacher_maps"),
        (lambda: losses.review_kd([four], []), "student_maps has 1 maps and teacher_maps 0"),
        (lambda: losses.fsp(four, four, four[..., :2], four), "student_first has 3 channels.* 2"),
        (lambda: losses.fsp(four, four, four, four[..., :1]), "student_second has 3 channels"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_label_out_of_range_is_nan_where_labels_are_not_known():
    z, t = float32(*LOGITS)
    for loss in (losses.dkd, losses.nkd):
        actual = jax.jit(loss)(z, t, jnp.asarray([0, -1, 5, 10, 2, 7]))
        np.testing.assert_array_equal(np.isnan(actual), [False, True, False, True, False, False])

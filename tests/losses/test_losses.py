"""Losses against float64 NumPy, hand arithmetic and analytic gradients."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import losses

WEIGHTS = {"hard": 0.7, "feature": 0.15, "soft": 0.15}


def log_softmax64(logits, axis=-1, where=None):
    logits = np.asarray(logits, np.float64)
    if where is not None:
        logits = np.where(where, logits, -np.inf)
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def kl64(student, teacher, temperature, axis=-1, where=None):
    student, teacher = np.broadcast_arrays(
        np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    )
    log_q = log_softmax64(student / temperature, axis, where)
    log_p = log_softmax64(teacher / temperature, axis, where)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        parts = np.where(p > 0, p * (log_p - log_q), 0.0)
    return temperature**2 * parts.sum(axis=axis)


def cross_entropy64(logits, labels, smoothing=0.0):
    log_q = log_softmax64(logits)
    classes = log_q.shape[-1]
    labels = np.broadcast_to(labels, log_q.shape[:-1])
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return -(targets * log_q).sum(axis=-1)


def random_logits(*shape, seed=0, scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


# Soft targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)])
def test_kl_equals_float64_numpy(temperature, shape):
    student, teacher = random_logits(*shape, seed=1), random_logits(*shape, seed=2)
    actual = losses.soft_target_kl(student, teacher, temperature=temperature)
    expected = kl64(student, teacher, temperature)
    assert actual.shape == shape[:-1]
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6 * temperature**2)


def test_kl_of_two_classes_by_hand():
    # p = (1/2, 1/2), q = (3/4, 1/4): KL = (ln(2/3) + ln 2) / 2 = ln(4/3) / 2.
    actual = losses.soft_target_kl(
        jnp.array([np.log(3.0), 0.0]), jnp.array([5.0, 5.0]), temperature=1.0
    )
    assert float(actual) == pytest.approx(np.log(4 / 3) / 2, rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_kl_over_another_axis(axis):
    student, teacher = random_logits(5, 6, 4, seed=3), random_logits(5, 6, 4, seed=4)
    actual = losses.soft_target_kl(student, teacher, temperature=2.0, axis=axis)
    np.testing.assert_allclose(actual, kl64(student, teacher, 2.0, axis), rtol=1e-5, atol=1e-5)


def test_kl_of_masked_classes_is_that_of_the_remaining_ones():
    student, teacher = random_logits(3, 6, seed=5), random_logits(3, 6, seed=6)
    where = np.array([True, False, True, True, False, True])
    actual = losses.soft_target_kl(student, teacher, temperature=2.0, where=where)
    expected = kl64(student[:, where], teacher[:, where], 2.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_masked_classes_get_no_gradient_and_break_none():
    student, teacher = random_logits(2, 5, seed=7), random_logits(2, 5, seed=8)
    where = np.array([[True] * 3 + [False] * 2, [False] + [True] * 4])

    def total(logits):
        return losses.soft_target_kl(logits, teacher, temperature=2.0, where=where).sum()

    p = np.exp(log_softmax64(teacher / 2.0, where=where))
    q = np.exp(log_softmax64(student / 2.0, where=where))
    gradient = jax.grad(total)(jnp.asarray(student))
    np.testing.assert_allclose(gradient, 2.0 * (q - p), atol=1e-5)


def test_one_teacher_serves_many_students():
    student, teacher = random_logits(3, 4, 5, seed=9), random_logits(4, 5, seed=10)
    actual = losses.soft_target_kl(student, teacher, temperature=4.0)
    assert actual.shape == (3, 4)
    np.testing.assert_allclose(actual, kl64(student, teacher, 4.0), rtol=1e-5, atol=1e-5)


def test_logits_that_do_not_broadcast_are_refused():
    with pytest.raises(ValueError, match="broadcast"):
        losses.soft_target_kl(jnp.zeros((3, 5)), jnp.zeros((2, 5)), temperature=1.0)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 20.0])
def test_temperature_squared_scales_the_divergence_of_equally_scaled_logits(temperature):
    student, teacher = random_logits(6, seed=11), random_logits(6, seed=12)
    plain = losses.soft_target_kl(student, teacher, temperature=1.0)
    scaled = losses.soft_target_kl(
        temperature * student, temperature * teacher, temperature=temperature
    )
    assert float(plain) > 0.1
    assert float(scaled) == pytest.approx(temperature**2 * float(plain), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_kl_gradients_in_both_arguments_are_the_analytic_ones(temperature):
    student, teacher = random_logits(3, 6, seed=13), random_logits(3, 6, seed=14)
    gradients = jax.grad(
        lambda z, t: losses.soft_target_kl(z, t, temperature=temperature).sum(), argnums=(0, 1)
    )(jnp.asarray(student), jnp.asarray(teacher))
    log_q, log_p = log_softmax64(student / temperature), log_softmax64(teacher / temperature)
    p, ratio = np.exp(log_p), log_p - log_q
    divergence = (p * ratio).sum(axis=-1, keepdims=True)
    # d/dz: T (q - p).  d/dt: T p (log p - log q - KL).
    np.testing.assert_allclose(gradients[0], temperature * (np.exp(log_q) - p), atol=1e-5)
    np.testing.assert_allclose(gradients[1], temperature * p * (ratio - divergence), atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_extreme_logits_give_the_exact_value_and_gradient(temperature):
    student, teacher = jnp.array([1e4, -1e4, 0.0]), jnp.array([-1e4, 1e4, 0.0])
    value, gradient = jax.value_and_grad(
        lambda z: losses.soft_target_kl(z, teacher, temperature=temperature)
    )(student)
    # p is all in class 2, q all in class 1: KL = (1e4 - -1e4) / T, times T^2; gradient T (q - p).
    assert float(value) == pytest.approx(2e4 * temperature, rel=1e-6)
    np.testing.assert_array_equal(gradient, [temperature, -temperature, 0.0])


def test_classes_of_zero_probability_contribute_nothing():
    student = random_logits(2, 4, seed=15)
    teacher = np.array([[1.0, -np.inf, 0.5, -np.inf], [-np.inf, 2.0, -np.inf, -np.inf]])

    def total(z, t):
        return losses.soft_target_kl(z, t, temperature=2.0).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(
        jnp.asarray(student), jnp.asarray(teacher, jnp.float32)
    )
    assert float(value) == pytest.approx(kl64(student, teacher, 2.0).sum(), rel=1e-5)
    q, p = np.exp(log_softmax64(student / 2.0)), np.exp(log_softmax64(teacher / 2.0))
    np.testing.assert_allclose(gradients[0], 2.0 * (q - p), atol=1e-5)
    assert np.isfinite(gradients[1]).all()
    np.testing.assert_array_equal(np.asarray(gradients[1])[np.isinf(teacher)], 0.0)


def test_kl_is_infinite_where_the_student_excludes_a_class_of_the_teacher():
    value = losses.soft_target_kl(jnp.array([0.0, -jnp.inf]), jnp.zeros(2), temperature=1.0)
    assert float(value) == np.inf


def test_kl_of_bfloat16_logits_is_computed_in_float32():
    student = jnp.asarray(random_logits(4, 9, seed=16), jnp.bfloat16)
    teacher = jnp.asarray(random_logits(4, 9, seed=17), jnp.bfloat16)
    actual = losses.soft_target_kl(student, teacher, temperature=2.0)
    assert actual.dtype == jnp.float32
    expected = kl64(np.asarray(student, np.float64), np.asarray(teacher, np.float64), 2.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_temperature_has_to_be_above_zero(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}: it must be above 0"):
        losses.soft_target_kl(jnp.zeros(2), jnp.zeros(2), temperature=temperature)


def test_temperature_may_be_traced():
    student, teacher = random_logits(2, 5, seed=18), random_logits(2, 5, seed=19)
    compiled = jax.jit(lambda t: losses.soft_target_kl(student, teacher, temperature=t))
    np.testing.assert_allclose(compiled(3.0), kl64(student, teacher, 3.0), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=10, max_size=10),
    temperature=st.floats(0.5, 20.0, width=32),
)
def test_kl_is_finite_and_not_negative(logits, temperature):
    student, teacher = np.array(logits, np.float32).reshape(2, 5)
    value = float(losses.soft_target_kl(student, teacher, temperature=temperature))
    assert np.isfinite(value)
    assert value >= -1e-6 * temperature**2  # rounding, scaled by the T^2 inside


# Hard labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5)])
def test_cross_entropy_equals_float64_numpy(smoothing, shape):
    logits = random_logits(*shape, seed=20)
    labels = np.random.default_rng(21).integers(0, 5, shape[:-1])
    actual = losses.hard_label_cross_entropy(logits, labels, label_smoothing=smoothing)
    assert actual.shape == shape[:-1]
    np.testing.assert_allclose(actual, cross_entropy64(logits, labels, smoothing), rtol=1e-5)


def test_cross_entropy_of_uniform_logits_is_the_logarithm_of_the_classes():
    actual = losses.hard_label_cross_entropy(jnp.zeros((2, 10)), jnp.array([0, 9]))
    np.testing.assert_allclose(actual, np.log(10.0), rtol=1e-6)


def test_batch_labels_serve_all_students():
    logits, labels = random_logits(3, 4, 5, seed=22), np.array([0, 4, 2, 2])
    actual = losses.hard_label_cross_entropy(logits, labels)
    assert actual.shape == (3, 4)
    np.testing.assert_allclose(actual, cross_entropy64(logits, labels), rtol=1e-5)


def test_cross_entropy_of_extreme_logits_is_exact():
    logits, labels = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]]), jnp.array([0, 1])
    value, gradient = jax.value_and_grad(
        lambda z: losses.hard_label_cross_entropy(z, labels).sum()
    )(logits)
    assert float(value) == 2e4
    np.testing.assert_array_equal(gradient, [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [-1, -4, 4, 100])
def test_traced_labels_out_of_range_give_nan_and_spare_the_others(label, smoothing):
    compiled = jax.jit(
        lambda labels: losses.hard_label_cross_entropy(
            jnp.zeros((2, 4)), labels, label_smoothing=smoothing
        )
    )
    actual = compiled(jnp.array([label, 2]))
    assert np.isnan(actual[0])
    assert float(actual[1]) == pytest.approx(np.log(4.0))


@pytest.mark.parametrize("make", [np.array, jnp.array])
@pytest.mark.parametrize("label", [-1, 4])
def test_known_labels_out_of_range_are_refused(label, make):
    message = rf"labels hold {label} \(entry 2\): with 4 classes they must be in 0\.\.3"
    logits, labels = jnp.zeros((4, 4)), make([0, 3, label, 9])
    with pytest.raises(ValueError, match=message):
        losses.hard_label_cross_entropy(logits, labels)
    # Known when a function is traced, they are refused then.
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda z: losses.hard_label_cross_entropy(z, labels))(logits)


@pytest.mark.parametrize(
    "labels", [np.array([0.0, 1.0]), np.array([0.0, 1.0, 1.0]), np.array([True, False])]
)
def test_labels_that_are_neither_integers_nor_distributions_are_refused(labels):
    with pytest.raises(ValueError, match="they must be integers"):
        losses.hard_label_cross_entropy(jnp.zeros((labels.size, 3)), labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_may_be_distributions(smoothing):
    logits, shares = random_logits(2, 3, 4, seed=24), np.array([0.3, 1.0, 0.0])
    first, second = np.array([0, 3, 2]), np.array([1, 1, 3])
    mixed = shares[:, None] * np.eye(4)[first] + (1 - shares[:, None]) * np.eye(4)[second]
    actual = losses.hard_label_cross_entropy(logits, mixed, label_smoothing=smoothing)
    expected = shares * cross_entropy64(logits, first, smoothing)
    expected += (1 - shares) * cross_entropy64(logits, second, smoothing)
    assert actual.shape == (2, 3)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    one = losses.hard_label_cross_entropy(logits[0, 0], mixed[0], label_smoothing=smoothing)
    np.testing.assert_allclose(one, expected[0, 0], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_has_to_be_a_share(smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing is {smoothing}"):
        losses.hard_label_cross_entropy(
            jnp.zeros((2, 3)), jnp.array([0, 1]), label_smoothing=smoothing
        )


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    logits = jnp.asarray(random_logits(4, 9, seed=23), jnp.bfloat16)
    actual = losses.hard_label_cross_entropy(logits, jnp.array([0, 1, 2, 8]))
    assert actual.dtype == jnp.float32
    expected = cross_entropy64(np.asarray(logits, np.float64), np.array([0, 1, 2, 8]))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


# Features


def test_feature_distance_by_hand():
    student = jnp.array([[[[1.0, 2.0]]], [[[0.0, 0.0]]]])  # [2, 1, 1, 2]
    teacher = jnp.array([[[[0.0, 4.0]]], [[[0.0, 3.0]]]])
    # (1 + 4) / 2 and (0 + 9) / 2.
    np.testing.assert_array_equal(losses.feature_mse(student, teacher), [2.5, 4.5])


def test_feature_distance_of_bfloat16_maps_is_computed_in_float32():
    student, teacher = jnp.full((1, 64, 64, 4), 1.0, jnp.bfloat16), jnp.zeros((1, 64, 64, 4))
    actual = losses.feature_mse(student, teacher)
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, [1.0])


@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (1, 4, 4, 3), (2, 4, 3)])
def test_feature_maps_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"differ in shape: student \(.*\), teacher \(2, 4, 4, 3"):
        losses.feature_mse(jnp.zeros(shape), jnp.zeros((2, 4, 4, 3)))


# The ensemble


def test_ensemble_logits_are_the_mean_or_the_weighted_sum():
    logits = jnp.array([[[0.0, 4.0]], [[4.0, 8.0]], [[8.0, 0.0]]])
    np.testing.assert_allclose(losses.ensemble_logits(logits), [[4.0, 4.0]], rtol=1e-6)
    weighted = losses.ensemble_logits(logits, (0.5, 0.25, 0.25))
    np.testing.assert_array_equal(weighted, [[3.0, 4.0]])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, 0.5), "weights has 2 entries for 3 students"),
        ((0.5, 0.6, -0.1), "none may be negative"),
        ((0.5, 0.5, 0.5), "the sum must be 1"),
    ],
)
def test_ensemble_weights_have_to_be_a_convex_combination(weights, message):
    with pytest.raises(ValueError, match=message):
        losses.ensemble_logits(jnp.zeros((3, 2, 4)), weights)


def ensemble_case(seed=30, students=3, batch=4, classes=5):
    """Logits, maps of two blocks for the pivot and the others, labels; all NumPy."""
    generator = np.random.default_rng(seed)
    logits = random_logits(students, batch, classes, seed=seed)
    shapes = [(batch, 4, 4, 3), (batch, 2, 2, 6)]
    maps = [
        [generator.standard_normal(shape).astype(np.float32) for _ in range(students)]
        for shape in shapes
    ]
    return logits, maps, generator.integers(0, classes, batch)


def pairs_of(maps):
    return [[(student, pivot) for student in others] for pivot, *others in maps]


@pytest.mark.parametrize("shares", [None, (0.5, 0.3, 0.2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_online_ensemble_loss_equals_float64_numpy(shares, smoothing):
    logits, maps, labels = ensemble_case()
    total, terms = losses.online_ensemble_loss(
        logits,
        pairs_of(maps),
        labels,
        weights=WEIGHTS,
        temperature=2.0,
        teacher_weights=shares,
        label_smoothing=smoothing,
    )
    teacher = np.average(np.asarray(logits, np.float64), axis=0, weights=shares)
    expected = {
        "hard": cross_entropy64(logits, labels, smoothing),
        "soft": kl64(logits, teacher, 2.0),
        "feature": np.zeros((3, 4)),
    }
    for pivot, *others in maps:
        for student, other in enumerate(others, start=1):
            squares = (other.astype(np.float64) - pivot) ** 2
            expected["feature"][student] += squares.reshape(4, -1).mean(axis=1)
    assert set(terms) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    weighted = sum(WEIGHTS[name] * values.sum(axis=0) for name, values in expected.items())
    np.testing.assert_allclose(total, weighted, rtol=1e-5)


def test_total_is_the_weighted_sum_of_the_returned_terms():
    logits, maps, labels = ensemble_case(seed=31)
    weights = {"hard": 1.0, "feature": 3.0, "soft": 0.25}
    total, terms = losses.online_ensemble_loss(
        logits, pairs_of(maps), labels, weights=weights, temperature=4.0
    )
    expected = sum(weights[name] * np.asarray(terms[name], np.float64).sum(0) for name in weights)
    assert total.shape == (4,)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    np.testing.assert_array_equal(terms["feature"][0], 0.0)


@pytest.mark.parametrize("shares", [None, (0.6, 0.3, 0.1)])
def test_the_ensemble_teacher_is_constant_for_the_gradient(shares):
    # The gradient through equal shares would vanish by itself; that through others would not.
    logits, _, labels = ensemble_case(seed=32)
    weights = {"hard": 0.7, "feature": 0.0, "soft": 0.15}

    def total(z):
        return losses.online_ensemble_loss(
            z, (), labels, weights=weights, temperature=3.0, teacher_weights=shares
        )[0].sum()

    p = np.exp(log_softmax64(np.average(logits, axis=0, weights=shares) / 3.0))
    q = np.exp(log_softmax64(logits / 3.0))
    hard = np.exp(log_softmax64(logits)) - np.eye(5)[labels]
    expected = 0.7 * hard + 0.15 * 3.0 * (q - p)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(logits)), expected, atol=1e-5)


def test_the_feature_term_trains_the_students_and_never_the_pivot():
    logits, maps, labels = ensemble_case(seed=33)

    def total(maps):
        weights = {"hard": 0.0, "feature": 0.15, "soft": 0.0}
        return losses.online_ensemble_loss(
            logits, pairs_of(maps), labels, weights=weights, temperature=2.0
        )[0].sum()

    gradients = jax.grad(total)(maps)
    for (pivot, *others), (pivot_gradient, *other_gradients) in zip(maps, gradients, strict=True):
        np.testing.assert_array_equal(pivot_gradient, 0.0)
        for student, gradient in zip(others, other_gradients, strict=True):
            expected = 0.15 * 2 * (student - pivot) / pivot[0].size
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "weights",
    [
        {"hard": 1.0, "soft": 1.0},
        {"hard": 1.0, "soft": 1.0, "feature": 1.0, "relation": 1.0},
        {"hard": 1.0, "soft": 1.0, "features": 1.0},
    ],
)
def test_weights_have_to_name_the_three_terms(weights):
    logits, maps, labels = ensemble_case()
    message = rf"weights names \['{sorted(weights)[0]}'.*expected \['feature', 'hard', 'soft'\]"
    with pytest.raises(ValueError, match=message):
        losses.online_ensemble_loss(
            logits, pairs_of(maps), labels, weights=weights, temperature=2.0
        )


def test_every_block_has_to_pair_all_students_but_the_pivot():
    logits, maps, labels = ensemble_case()
    pairs = pairs_of(maps)
    pairs[1] = pairs[1][:1]
    with pytest.raises(ValueError, match=r"feature_pairs\[1\] has 1 pairs.*students 2\.\.3"):
        losses.online_ensemble_loss(logits, pairs, labels, weights=WEIGHTS, temperature=2.0)


# Examples in the documentation


@pytest.mark.parametrize(
    "name",
    [
        "kdjax.losses.attention",
        "kdjax.losses.ensemble",
        "kdjax.losses.features",
        "kdjax.losses.hard_labels",
        "kdjax.losses.review",
        "kdjax.losses.soft_targets",
        "kdjax.losses.standardize",
        "kdjax.losses.vid",
        "kdjax.models.registry",
        "kdjax.widths",
    ],
)
def test_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0

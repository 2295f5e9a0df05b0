"""The ensemble's logits and the paper's whole objective, compared with float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import cross_entropy64, kl64, log_softmax64, random_logits

from kdjax import losses

WEIGHTS = {"hard": 0.7, "feature": 0.15, "soft": 0.15}


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
        ((0.5, 0.5, float("nan")), "none may be negative"),
        ((0.5, 0.5, 0.5), "the sum must be 1"),
    ],
)
def test_ensemble_weights_have_to_be_a_convex_combination(weights, message):
    with pytest.raises(ValueError, match=message):
        losses.ensemble_logits(jnp.zeros((3, 2, 4)), weights)


def ensemble_case(seed=30, students=3, batch=4, classes=5):
    """Returns logits, maps of two blocks for the pivot and the others, and labels, in NumPy."""
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
    # With equal shares a gradient through the teacher would be 0 anyway; with others it would not.
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

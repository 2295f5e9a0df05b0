"""Cross entropy with hard labels: float64 NumPy, hand arithmetic, bad labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import cross_entropy64, random_logits

from kdjax import losses


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
    # Labels that are known during tracing are refused then.
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


@pytest.mark.parametrize("row", [[2.0, 0.0], [0.5, 0.4], [1.5, -0.5], [np.nan, 1.0], [0.0, 0.0]])
def test_rows_that_are_no_distributions_are_refused_outside_jit(row):
    logits, labels = jnp.zeros((2, 2)), jnp.array([[0.5, 0.5], row])
    with pytest.raises(ValueError, match="not every row is a distribution: their sums go from"):
        losses.hard_label_cross_entropy(logits, labels)
    jax.jit(losses.hard_label_cross_entropy)(logits, labels)


def test_rounded_distributions_are_distributions():
    labels = jnp.full((1, 1000), 1e-3, jnp.bfloat16)
    losses.hard_label_cross_entropy(jnp.zeros((1, 1000)), labels)
    losses.hard_label_cross_entropy(jnp.zeros((1, 2)), jnp.array([[1.0 + 1e-6, -1e-6]]))

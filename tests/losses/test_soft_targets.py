"""Divergence from soft targets: float64 NumPy, hand arithmetic, analytic gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import kl64, log_softmax64, random_logits

from kdjax import losses


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


@pytest.mark.parametrize("kind", [float, np.float32, jnp.float32])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e-4, 1e7, float("inf")])
def test_temperature_has_its_range(kind, temperature):
    with pytest.raises(ValueError, match=r"temperature is .*: it must be from 0.001 to 1e\+06"):
        losses.soft_target_kl(jnp.zeros(2), jnp.zeros(2), temperature=kind(temperature))


@pytest.mark.parametrize("temperature", [1e-3, 1e6])
def test_losses_are_finite_at_the_ends_of_the_range(temperature):
    z, t = (3.0 * jnp.asarray(random_logits(8, 5, seed=seed)) for seed in (1, 2))
    labels = jnp.arange(8) % 5
    for loss in (
        lambda z: losses.soft_target_kl(z, t, temperature=temperature),
        lambda z: losses.dkd(z, t, labels, temperature=temperature),
        lambda z: losses.nkd(z, t, labels, temperature=temperature),
        lambda z: losses.dist(z, t, temperature=temperature),
    ):
        value, gradient = jax.jit(jax.value_and_grad(lambda z, loss=loss: loss(z).mean()))(z)
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))


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


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_temperature_of_low_precision_is_squared_in_float32(dtype):
    student, teacher = jnp.array([2.0, 0.0, -1.0]), jnp.array([3.0, 1.0, -2.0])
    temperature = jnp.asarray(300.0, dtype)
    expected = losses.soft_target_kl(student, teacher, temperature=float(temperature))
    for loss in (losses.soft_target_kl, jax.jit(losses.soft_target_kl)):
        found = loss(student, teacher, temperature=temperature)
        np.testing.assert_allclose(found, expected, rtol=1e-6)

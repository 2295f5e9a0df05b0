"""The divergence of softened predictions where float32 has too few digits or too little range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from kdjax import losses


def exact(student, teacher, temperature):
    """Returns T^2 KL and its gradients, in NumPy's longdouble because float64 may be too short."""
    z, t = np.longdouble(student) / temperature, np.longdouble(teacher) / temperature
    log_q = z - z.max(-1, keepdims=True)
    log_q -= np.log(np.exp(log_q).sum(-1, keepdims=True))
    log_p = t - t.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    p, ratio = np.exp(log_p), log_p - log_q
    divergence = (p * ratio).sum(-1, keepdims=True)
    by_student = temperature * (np.exp(log_q) - p)
    by_teacher = temperature * p * (ratio - divergence)
    return [np.float64(x) for x in (temperature**2 * divergence[..., 0], by_student, by_teacher)]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 20.0, 100.0, 1e4, 1e6])
def test_the_error_does_not_grow_with_the_temperature(temperature):
    generator = np.random.default_rng(0)
    teacher = generator.normal(0, 3, (9, 100)).astype(np.float32)
    near = teacher + generator.normal(0, 1e-2, teacher.shape).astype(np.float32)
    far = generator.normal(0, 3, teacher.shape).astype(np.float32)
    shifted = far + np.float32(64)

    def total(z, t):
        return losses.soft_target_kl(z, t, temperature=temperature)

    @jax.jit
    def compiled(z, t):
        values, pull = jax.vjp(total, z, t)
        return values, *pull(jnp.ones(9))

    for student in (near, far, shifted, teacher):
        actual, expected = compiled(student, teacher), exact(student, teacher, temperature)
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-6)
        assert (np.asarray(actual[0]) >= 0).all()
        for gradient, one in zip(actual[1:], expected[1:], strict=True):
            np.testing.assert_allclose(gradient, one, rtol=1e-5, atol=1e-6)
    # If both are equal, nothing is rounded except the float32 inputs themselves.
    np.testing.assert_array_equal(compiled(teacher, teacher)[0], 0.0)


def test_values_that_were_wrong_before():
    # The error was T^2 times the rounding of two logarithms: 2.5e-4 at T = 20, -119208 at T = 1e6.
    z, t = (np.asarray(array, np.float32) for array in reference.LOGITS)
    for temperature in (20.0, 1e6):
        actual = losses.soft_target_kl(z, t, temperature=temperature)
        np.testing.assert_allclose(actual, exact(z, t, temperature)[0], rtol=2e-6)


def test_classes_missing_from_the_teacher_at_a_high_temperature():
    # p = (1/2, 1/2, 0), q = 1/3 each: KL = ln(3/2) for any T.
    teacher = jnp.array([0.0, 0.0, -jnp.inf])
    actual = losses.soft_target_kl(jnp.zeros(3), teacher, temperature=100.0)
    assert float(actual) == pytest.approx(1e4 * np.log(1.5), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 20.0])
@pytest.mark.parametrize("size", [1e4, 1e30, 1e38])
def test_opposite_extremes_have_exact_gradients(size, temperature):
    student, teacher = jnp.array([size, -size, 0.0]), jnp.array([-size, size, 0.0])
    value, gradients = jax.value_and_grad(
        lambda z, t: losses.soft_target_kl(z, t, temperature=temperature), argnums=(0, 1)
    )(student, teacher)
    largest = float(np.finfo(np.float32).max)
    assert float(value) == pytest.approx(min(2 * size * temperature, largest), rel=1e-6)
    np.testing.assert_array_equal(gradients[0], [temperature, -temperature, 0.0])
    np.testing.assert_array_equal(gradients[1], 0.0)


def test_the_temperature_can_be_learnt():
    z, t = (np.asarray(array[:2], np.float32) for array in reference.LOGITS)
    gradient = jax.grad(lambda at: losses.soft_target_kl(z, t, temperature=at).sum())(3.0)
    above, below = exact(z, t, 3.0 + 1e-5)[0].sum(), exact(z, t, 3.0 - 1e-5)[0].sum()
    assert float(gradient) == pytest.approx((above - below) / 2e-5, rel=1e-4)


def test_second_derivatives_are_those_of_the_softmax():
    z, t = (np.asarray(array[0], np.float32) for array in reference.LOGITS)
    actual = jax.hessian(lambda z: losses.soft_target_kl(z, t, temperature=2.0))(z)
    q = reference.softmax(np.float64(z), 2.0)
    np.testing.assert_allclose(actual, np.diag(q) - np.outer(q, q), atol=1e-6)

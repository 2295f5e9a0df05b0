"""Weights of loss terms: ramps, and students that a term leaves out."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import config as configuration
from kdjax.train.program.term_weights import ensemble_weights, ramped_weights, taught_weights


def config_with(**fields):
    config = configuration.default()
    named = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(named)
    return config


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("constant", [1, 1, 1]), ("linear", [0, 0.5, 1]), ("cosine", [0, 0.5, 1])],
)
def test_weights_grow_over_the_ramp(shape, expected):
    config = config_with(weight_ramp__soft=shape, weight_ramp__epochs=4.0, weights__soft=0.3)
    weights = ramped_weights(config, steps_per_epoch=10)
    values = [weights(jnp.int32(step)) for step in (0, 20, 40)]
    np.testing.assert_allclose([v["soft"] for v in values], 0.3 * np.array(expected), atol=1e-7)
    np.testing.assert_allclose([v["hard"] for v in values], 0.7, rtol=1e-6)
    np.testing.assert_allclose(weights(jnp.int32(400))["soft"], 0.3, rtol=1e-6)


def test_a_ramp_is_cut_to_the_length_of_the_run():
    # The cosine ramp of the feature term reaches .15 at the last step, not after 15 epochs.
    weights = ramped_weights(config_with(epochs=1), 8)
    np.testing.assert_allclose(
        [weights(jnp.float32(step))["feature"] for step in (0, 4, 8)], [0, 0.075, 0.15], atol=1e-7
    )


def test_student_weights_multiply_all_terms_but_hard():
    config = config_with(weight_ramp__feature="constant", student_weights=(0.0, 1.0, 2.0, 1.0, 1.0))
    weights = ensemble_weights(config, 1, 5)(jnp.int32(3))
    assert float(weights["hard"]) == pytest.approx(0.7)
    np.testing.assert_allclose(weights["soft"], 0.15 * np.array([0.0, 1.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize("name", configuration.TERMS)
def test_every_term_has_a_ramp_and_a_weight_for_each_student(name):
    config = config_with(
        **{f"weights__{term}": float(term == name) for term in configuration.TERMS},
        **{f"weight_ramp__{name}": "linear"},
        weight_ramp__epochs=4.0,
        student_weights=(0.5, 1.0, 2.0, 1.0, 1.0),
    )
    shares = 1.0 if name == "hard" else np.array(config.student_weights)
    found = ensemble_weights(config, 10, 5)(jnp.int32(10))  # A quarter of the ramp.
    assert list(found) == [name]
    np.testing.assert_allclose(found[name], 0.25 * shares, rtol=1e-6)


def test_a_pivot_without_a_teacher_has_no_terms_of_teacher_logits():
    config = config_with(weights__nkd=0.5, weight_ramp__feature="constant")
    weights = ensemble_weights(config, 1, 3, pivot_learns=False)(jnp.int32(0))
    np.testing.assert_allclose(weights["soft"], [0.0, 0.15, 0.15])
    np.testing.assert_allclose(weights["nkd"], [0.0, 0.5, 0.5])
    np.testing.assert_allclose([weights["hard"], weights["feature"]], [0.7, 0.15])


@pytest.mark.parametrize(("ramp", "grown"), [("constant", 1.0), ("linear", 5 / 20)])
def test_beside_a_fixed_teacher_weights_belong_to_those_that_are_taught(ramp, grown):
    config = configuration.distill_default()
    config.weights.update(hard=0.2, soft=0.0, dkd=0.8)
    config.weight_ramp.update(dkd=ramp, epochs=2.0)
    weights = taught_weights(config, (True, False), steps_per_epoch=10)(jnp.int32(5))
    np.testing.assert_allclose(weights["hard"], [0.2, 1.0])
    np.testing.assert_allclose(weights["dkd"], [0.8 * grown, 0.0])

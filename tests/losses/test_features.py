"""The distance of feature maps, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses


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

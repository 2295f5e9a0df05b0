"""The proximal map of the largest magnitude, compared with independent minimisers."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.search import proximal

numbers = st.floats(-4, 4, width=32)
amounts = st.floats(0, 12, width=32)
# There are few shapes, because each is compiled.
columns = st.integers(1, 4).flatmap(lambda size: st.lists(numbers, min_size=size, max_size=size))


def minimise(column, amount):
    """argmin_x 0.5 ||x - s||^2 + amount * max|x|, by golden section over the level max|x|.

    For a given level the best x is s clipped to it; the objective is then convex in the level.
    """
    column = np.asarray(column, np.float64)

    def objective(level):
        return 0.5 * np.sum(np.maximum(np.abs(column) - level, 0) ** 2) + amount * level

    low, high = 0.0, float(np.abs(column).max())
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if objective(left) <= objective(right):
            high = right
        else:
            low = left
    level = 0.0 if objective(0.0) <= objective((low + high) / 2) else (low + high) / 2
    return np.clip(column, -level, level)


@settings(max_examples=150, deadline=None)
@given(columns, amounts)
def test_equals_an_independent_minimiser(column, amount):
    found = proximal(jnp.array(column)[:, None], jnp.array([amount]))[:, 0]
    np.testing.assert_allclose(found, minimise(column, amount), atol=2e-5)


@settings(max_examples=50, deadline=None)
@given(columns, amounts, st.integers(0, 2**32 - 1))
def test_nothing_nearby_is_better(column, amount, seed):
    """Checks the definition directly: no random point has a lower objective."""
    column = np.array(column)
    found = np.asarray(proximal(jnp.array(column)[:, None], jnp.array([amount]))[:, 0], float)

    def objective(points):
        distance = 0.5 * np.sum((points - column) ** 2, axis=-1)
        return distance + amount * np.max(np.abs(points), axis=-1)

    generator = np.random.default_rng(seed)
    steps = generator.normal(size=(500, len(column))) * 10.0 ** generator.uniform(-3, 1, (500, 1))
    others = np.concatenate([found + steps, column * generator.uniform(0, 1, (100, 1))])
    assert objective(found) <= objective(others).min() + 1e-5


@settings(max_examples=50, deadline=None)
@given(st.lists(numbers, min_size=5, max_size=5), st.lists(amounts, min_size=5, max_size=5))
def test_one_contributor_is_soft_thresholding(scales, amount):
    scales, amount = np.array(scales), np.array(amount)
    found = proximal(jnp.array(scales)[None], jnp.array(amount))[0]
    expected = np.sign(scales) * np.maximum(np.abs(scales) - amount, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(columns, amounts)
def test_rows_of_zeros_change_nothing(column, amount):
    scales = jnp.array(column)[:, None]
    padded = jnp.concatenate([scales, jnp.zeros((3, 1))])
    found = proximal(padded, jnp.array([amount]))
    np.testing.assert_allclose(
        found[: len(column)], proximal(scales, jnp.array([amount])), atol=1e-6
    )
    np.testing.assert_array_equal(found[len(column) :], 0)


@pytest.mark.parametrize(
    ("column", "amount", "expected"),
    [
        # The largest falls alone by up to 1, then the two largest fall together, by .5 each.
        ([3.0, -2.0, 1.0], 0.5, [2.5, -2.0, 1.0]),
        ([3.0, -2.0, 1.0], 2.0, [1.5, -1.5, 1.0]),
        ([3.0, -2.0, 1.0], 3.0, [1.0, -1.0, 1.0]),
        ([3.0, -2.0, 1.0], 4.5, [0.5, -0.5, 0.5]),
        # All are 0 when the amount is the sum of all magnitudes.
        ([3.0, -2.0, 1.0], 6.0, [0.0, 0.0, 0.0]),
        ([3.0, -2.0, 1.0], 0.0, [3.0, -2.0, 1.0]),
    ],
)
def test_by_hand(column, amount, expected):
    found = proximal(jnp.array(column)[:, None], jnp.array([amount]))[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_units_do_not_see_each_other():
    scales = jnp.array([[1.0, 3.0, -2.0], [2.0, 0.0, -2.0]])
    amounts = jnp.array([0.5, 1.0, 5.0])
    together = proximal(scales, amounts)
    np.testing.assert_allclose(together, [[1.0, 2.0, 0.0], [1.5, 0.0, 0.0]])

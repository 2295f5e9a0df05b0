"""Means and intervals, compared with tables and arithmetic by hand."""

import numpy as np
import pytest

from kdjax import statistics


def test_three_seeds_by_hand():
    # s = 1, n = 3; Student's table gives 4.3027 for 2 degrees of freedom: 4.3027 / sqrt(3).
    assert statistics.mean([1, 2, 3]) == 2
    assert statistics.deviation([1, 2, 3]) == 1
    assert statistics.half_width([1, 2, 3]) == pytest.approx(2.484, abs=5e-4)


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        ([0.0, 2.0], 0.95, 12.706),  # s = sqrt(2), n = 2: 12.706 * 1
        ([-1.0, -1.0, 0.0, 1.0, 1.0], 0.95, 2.776 / 5**0.5),  # s = 1
        ([1.0, 2.0, 3.0], 0.9, 2.920 / 3**0.5),
    ],
)
def test_students_table(values, level, expected):
    assert statistics.half_width(values, level) == pytest.approx(expected, rel=2e-4)


def test_what_does_not_exist_is_none():
    assert statistics.mean([]) is None
    assert statistics.deviation([3.0]) is None
    assert statistics.half_width([3.0]) is None
    assert statistics.half_width(np.array([])) is None

"""Means over seeds, standard deviations, and confidence intervals of means."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95  # Confidence level of all intervals that kdjax reports.


def mean(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean; None if there are no values."""
    return float(np.mean(values)) if len(values) else None


def deviation(values: Sequence[float] | np.ndarray) -> float | None:
    """Sample standard deviation (``ddof=1``); None if there are fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def half_width(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> float | None:
    """Half the width of the t-interval of a mean: ``t * s / sqrt(n)``.

    ``s`` is the sample standard deviation of the ``n`` values, ``t`` the quantile of Student's
    distribution with ``n - 1`` degrees of freedom at ``(1 + level) / 2``. For paired differences,
    the interval is that of their mean.

    >>> round(half_width([1.0, 2.0, 3.0]), 3)
    2.484

    Args:
      values: independent measurements, one per seed.
      level: the confidence level, in (0, 1).

    Returns:
      Half the width, in the unit of the values; None for fewer than two values.
    """
    spread = deviation(values)
    if spread is None:
        return None
    from scipy import stats

    quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    return quantile * spread / float(np.sqrt(len(values)))

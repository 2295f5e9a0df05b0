"""Rounds widths to multiples of a number: removes and adds multiples by their worth per cost."""

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from kdjax.search.budget import EXACTNESS, Budget
from kdjax.search.extract import TOLERANCE, group_width, with_counts
from kdjax.widths import WidthVector

_EXCHANGES = 20  # Largest number of rounds of exchanges, so that the loop ends.


def round_widths(
    widths: Mapping[str, int], budget: Budget, multiple: int, worths: np.ndarray
) -> WidthVector:
    """Rounds widths to multiples within the budget and, where multiples allow it, close to it.

    Each group is rounded to its nearest multiple. While the cost is above a target, the multiple
    with the least worth per cost is removed. While a target is undercut by more than
    :data:`TOLERANCE`, the multiple with the most worth per cost that fits is added. At the end, one
    or two multiples at a time are exchanged for others, as long as this brings the cost nearer to
    the target.

    Args:
      widths: the widths that a search found.
      budget: must not be exceeded; its schedule says which groups may change.
      multiple: the width of every group that changes is a multiple of this number, or the full
        width of the group.
      worths: ``[units]``, see :func:`kdjax.search.extract.worth`.

    Raises:
      ValueError: if the budget does not even allow the smallest widths.
    """
    return _Rounding(budget, multiple, worths).of(widths)


class _Rounding:
    def __init__(self, budget: Budget, multiple: int, worths: np.ndarray):
        self._budget, self._multiple = budget, multiple
        self._groups, self._costs = budget.channels.groups, budget.relative_costs
        self._steps = [math.lcm(multiple, group.unit_size) for group in self._groups]
        self._free = [n for n in range(len(self._groups)) if budget.slots[:, n].any()]
        self._least = [*budget.least(multiple).values()]
        # For each n, the total worth of the n most valuable channels of a group.
        self._worth_of = [
            np.append(
                0.0, np.cumsum(np.repeat(-np.sort(-values) / group.unit_size, group.unit_size))
            )
            for group, values in zip(
                self._groups, budget.channels.by_group(worths).values(), strict=True
            )
        ]

    def of(self, widths: Mapping[str, int]) -> WidthVector:
        counts = np.array([group_width(group, widths) for group in self._groups])
        for number in self._free:
            step, most = self._steps[number], self._groups[number].channels
            nearest = max(self._least[number], round(counts[number] / step) * step)
            counts[number] = most if counts[number] == most else min(most, nearest)
        counts = self._exchanged(self._filled(self._thinned(counts)))
        return with_counts(widths, self._budget.channels, counts)

    def _changed(self, counts: np.ndarray, sign: int) -> Iterator[tuple[int, np.ndarray, float]]:
        """Yields (group, counts with one multiple more or less of it, worth of that multiple)."""
        for number in self._free:
            step, most = self._steps[number], self._groups[number].channels
            have = int(counts[number])
            then = min(most, have + step) if sign > 0 else (have - 1) // step * step
            if then == have or then < self._least[number]:
                continue
            other = counts.copy()
            other[number] = then
            worth = abs(self._worth_of[number][then] - self._worth_of[number][have])
            yield number, other, float(worth)

    def _thinned(self, counts: np.ndarray) -> np.ndarray:
        """Removes multiples until every target is met, those of the least worth per cost first."""
        while (over := (now := self._costs(counts)) > 1 + EXACTNESS).any():
            choices = [
                (worth / saved, number, fewer)
                for number, fewer, worth in self._changed(counts, -1)
                if (saved := (now - self._costs(fewer))[over].max()) > 0
            ]
            if not choices:
                raise ValueError(
                    "the budget does not allow the smallest widths, in multiples of "
                    f"{self._multiple}: choose a smaller search.multiple or search.min_width, or a "
                    "larger target"
                )
            counts = min(choices, key=lambda choice: choice[:2])[2]
        return counts

    def _filled(self, counts: np.ndarray, without: Collection[int] = ()) -> np.ndarray:
        """Adds multiples that fit while a target is undercut, but not to the groups ``without``."""
        while (low := (now := self._costs(counts)) < 1 - TOLERANCE).any():
            choices = []
            for number, more, worth in self._changed(counts, 1):
                then = self._costs(more)
                fits = number not in without and (then <= 1 + EXACTNESS).all()
                if fits and (price := (then - now)[low].max()) > 0:
                    choices.append((-worth / price, number, more))
            if not choices:
                break
            counts = min(choices, key=lambda choice: choice[:2])[2]
        return counts

    def _exchanged(self, counts: np.ndarray) -> np.ndarray:
        """Exchanges one or two multiples for others while a target is undercut.

        Among the exchanges that bring all costs near their targets, the one that loses the least
        worth is taken. If no exchange does so, the one that comes nearest is taken.
        """
        for _ in range(_EXCHANGES):
            near = self._costs(counts).min()
            if near >= 1 - TOLERANCE:
                break
            found = [
                (min(then, 1 - TOLERANCE), self._worth(other), other)
                for dropped, fewer in self._dropped(counts)
                if (then := self._costs(other := self._filled(fewer, dropped)).min()) > near
            ]
            if not found:
                break
            counts = max(found, key=lambda choice: choice[:2])[2]
        return counts

    def _dropped(self, counts: np.ndarray) -> Iterator[tuple[set[int], np.ndarray]]:
        """Yields (groups that lost a multiple, counts) for each removal of one or two multiples."""
        for first, fewer, _ in self._changed(counts, -1):
            yield {first}, fewer
            for second, least, _ in self._changed(fewer, -1):
                if second >= first:
                    yield {first, second}, least

    def _worth(self, counts: np.ndarray) -> float:
        pairs = zip(self._worth_of, counts, strict=True)
        return float(sum(worths[count] for worths, count in pairs))

"""From living channels to a width vector: counting, rounding, widening, and who stays."""

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from kdjax.search.budget import EXACTNESS, Budget, minimum_width
from kdjax.search.channels import Channels, Group
from kdjax.widths import WidthVector

Kept = Mapping[str, np.ndarray]

_EXCHANGED = 1000  # Channels that may go for others at most, so that trying ends.
TOLERANCE = 0.02  # How far below a target a structure may stay, relative to the target.


def alive_widths(channels: Channels, full: Mapping[str, int], dead: np.ndarray) -> WidthVector:
    """The width vector of what is alive.

    Args:
      channels: the layout of the searched network.
      full: its widths.
      dead: ``[units]`` bool.
    """
    counts = {
        member: int((~flags).sum()) * group.unit
        for group, flags in zip(channels.groups, channels.by_group(dead).values(), strict=True)
        for member in group.members
    }
    return WidthVector({name: counts.get(name, width) for name, width in full.items()})


def kept_channels(
    channels: Channels, magnitudes: np.ndarray, dead: np.ndarray, widths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Which channels of each group stay when the network shrinks to ``widths``.

    The living ones first, the strongest first; dead ones only where ``widths`` asks for more.

    Args:
      channels: the layout of the searched network.
      magnitudes: ``[units]`` largest |scale| of each unit.
      dead: ``[units]`` bool.
      widths: of the compact network.

    Returns:
      Group of the width vector -> ``[width]`` increasing indices into the full group. Groups that
      cannot be thinned are left out: all their channels stay.

    Raises:
      ValueError: if tied groups differ, or a width is above the group's or splits a unit.
    """
    kept: dict[str, np.ndarray] = {}
    strengths, deaths = channels.by_group(magnitudes), channels.by_group(dead)
    for group in channels.groups:
        width = group_width(group, widths)
        if width > group.channels or width % group.unit:
            raise ValueError(
                f"widths[{group.name!r}] is {width}: at most {group.channels}"
                + (f", in multiples of {group.unit}" if group.unit > 1 else "")
            )
        order = np.lexsort((-strengths[group.name], deaths[group.name]))
        units = np.sort(order[: width // group.unit])
        indices = (units[:, None] * group.unit + np.arange(group.unit)).ravel()
        kept |= dict.fromkeys(group.members, indices)
    for name in channels.fixed:
        if name not in widths:
            raise ValueError(f"widths misses the group {name!r}")
    return kept


def group_width(group: Group, widths: Mapping[str, int]) -> int:
    """The one width of a group.

    Raises:
      ValueError: if its members' widths differ, which their tie does not allow.
    """
    found = {member: widths[member] for member in group.members}
    if len(set(found.values())) > 1:
        text = ", ".join(f"{member} {width}" for member, width in found.items())
        raise ValueError(f"widths differ in groups that an addition ties: {text}")
    return found[group.name]


def top_up(widths: Mapping[str, int], budget: Budget) -> WidthVector:
    """Gives channels back while a target is undercut by more than :data:`TOLERANCE`.

    With several targets the last to be met may leave another behind; with few channels one may be
    worth more than the tolerance. The channel that comes back is the one that brings most of what
    is undercut for what it takes of the room under the other targets. Where there is no room left,
    channels of the opposite kind go for it.

    Args:
      widths: within the budget.
      budget: whose blocks say which groups may change.

    Returns:
      Widths within the budget, whose undercut targets are met at least as closely.
    """
    constraints, groups = budget.constraints, budget.channels.groups
    targets = np.array([constraint.target for constraint in constraints])
    free = [number for number in range(len(groups)) if budget.slots[:, number].any()]
    least = [minimum_width(group, budget.min_width) for group in groups]

    def shares(counts: np.ndarray) -> np.ndarray:
        """``[constraints]``: shares relative to their targets."""
        return np.array([c.model.cost(counts) for c in constraints]) / targets

    def changed(counts: np.ndarray, number: int, sign: int) -> np.ndarray | None:
        more = counts.copy()
        more[number] += sign * groups[number].unit
        return more if least[number] <= more[number] <= groups[number].channels else None

    def fill(counts: np.ndarray) -> np.ndarray:
        """Adds single channels while one helps and fits."""
        while (low := (now := shares(counts)) < 1 - TOLERANCE).any():
            best, best_value = None, 0.0
            for more in (changed(counts, number, 1) for number in free):
                if more is None or ((then := shares(more)) > 1 + EXACTNESS).any():
                    continue
                gain, price = (
                    (then - now)[low].max(),
                    ((then - now) / np.maximum(1 - now, 1e-12)).max(),
                )
                if gain > 0 and gain / price > best_value:
                    best, best_value = more, gain / price
            if best is None:
                break
            counts = best
        return counts

    def drop(counts: np.ndarray, low: np.ndarray) -> np.ndarray | None:
        """Takes the channel that frees most of what is scarce for what it costs of the rest."""
        now, best, best_value = shares(counts), None, 0.0
        for less in (changed(counts, number, -1) for number in free):
            if less is not None:
                lost = now - shares(less)
                value = lost[~low].min() / (lost[low].max() + 1e-12)
                if value > best_value:
                    best, best_value = less, value
        return best

    counts = fill(np.array([group_width(group, widths) for group in groups], float))
    fewer: np.ndarray | None = counts
    together, dropped = 1, 0
    while fewer is not None and dropped < _EXCHANGED:
        low = (now := shares(counts)) < 1 - TOLERANCE
        if not low.any() or low.all():
            break
        # One channel may not free enough for another: more and more go until a whole one fits.
        for _ in range(together):
            fewer = None if fewer is None else drop(fewer, low)
        dropped, together = dropped + together, 2 * together
        if fewer is not None and shares(filled := fill(fewer))[low].min() > now[low].min():
            counts, fewer, together = filled, filled, 1
    return _with_counts(widths, budget.channels, counts)


def _with_counts(
    widths: Mapping[str, int], channels: Channels, counts: np.ndarray | list[int]
) -> WidthVector:
    """``widths`` with the groups of ``channels`` at ``counts``."""
    changed = {
        member: int(count)
        for group, count in zip(channels.groups, counts, strict=True)
        for member in group.members
    }
    return WidthVector({name: changed.get(name, width) for name, width in widths.items()})


def expand(
    widths: Mapping[str, int],
    channels: Channels,
    allows: Callable[[Mapping[str, int]], bool],
    *,
    limit: Mapping[str, int],
    multiple: int = 1,
    fixed: Collection[str] = (),
) -> WidthVector:
    """The widths times the largest uniform multiplier that a budget allows.

    What the rounding down leaves unused is dealt out: groups take one more multiple in the order of
    what they lost, as long as the budget allows it.

    Args:
      widths: to multiply; a multiplier below 1 shrinks them.
      channels: says which groups are tied, come in units, or cannot change.
      allows: whether a width vector is within the budget; must hold for all narrower ones too.
      limit: widths not to exceed.
      multiple: every group that changes is a multiple of it (its limit, where that is smaller).
      fixed: names of groups that stay at their limit.

    Raises:
      ValueError: if the budget does not even allow one multiple in every group.

    References:
      Gordon et al., *MorphNet*, CVPR 2018, algorithm 1, step 3.
    """
    groups = channels.groups
    steps = [math.lcm(multiple, group.unit) for group in groups]
    limits = [limit[group.name] for group in groups]
    holds = [group.name in fixed for group in groups]
    wanted = [group_width(group, widths) for group in groups]

    def floored(factor: float) -> list[int]:
        return [
            most if held else min(most, max(step, math.floor(factor * width / step + 1e-9) * step))
            for width, step, most, held in zip(wanted, steps, limits, holds, strict=True)
        ]

    def vector(chosen: list[int]) -> WidthVector:
        return _with_counts(limit, channels, chosen)

    low, high = 0.0, max(most / width for most, width in zip(limits, wanted, strict=True))
    if not allows(vector(floored(low))):
        raise ValueError(
            f"the budget does not allow {multiple} channel(s) in every group: "
            "choose a smaller search.multiple or a larger target"
        )
    if allows(vector(floored(high))):
        return vector(floored(high))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if allows(vector(floored(middle))) else (low, middle)
    chosen = floored(low)
    lost = [
        low * width / step - have / step
        for width, step, have in zip(wanted, steps, chosen, strict=True)
    ]
    for number in sorted(range(len(groups)), key=lambda number: -lost[number]):
        more = list(chosen)
        more[number] = min(limits[number], more[number] + steps[number])
        if allows(vector(more)):
            chosen = more
    return vector(chosen)

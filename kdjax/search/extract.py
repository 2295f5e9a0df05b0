"""Turns living channels into a width vector: counts them, revives some, selects which stay."""

from collections.abc import Mapping

import numpy as np

from kdjax.search.budget import EXACTNESS, Budget
from kdjax.search.channels import Channels
from kdjax.tracing import Group
from kdjax.widths import WidthVector

Kept = Mapping[str, np.ndarray]

TOLERANCE = 0.02  # How far below a target a structure may stay, relative to the target.
_LEAST_WORTH = 1e-9  # Least worth of a living unit, so that it ranks above every dead unit.
REVIVED = 0.03  # Largest share of all units that may be revived.


def alive_widths(channels: Channels, full: Mapping[str, int], dead: np.ndarray) -> WidthVector:
    """The width vector of the living channels.

    Args:
      channels: the layout of the searched network.
      full: the widths of the searched network.
      dead: ``[units]`` bool.
    """
    return with_counts(full, channels, _counts(channels, ~dead))


def kept_channels(
    channels: Channels, worths: np.ndarray, dead: np.ndarray, widths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Which channels of each group stay when the network shrinks to ``widths``.

    Living channels are taken first, in the order of their worth. Dead channels are taken only where
    ``widths`` asks for more channels than are alive.

    Args:
      channels: the layout of the searched network.
      worths: ``[units]`` what each unit is worth within its group, such as its largest |scale|.
      dead: ``[units]`` bool.
      widths: the widths of the compact network.

    Returns:
      Group of the width vector -> ``[width]`` increasing indices into the full group. Groups that
      cannot be thinned are left out: all their channels stay.

    Raises:
      ValueError: if tied groups have different widths, a width is above the full width of its group
        or splits a unit, or ``widths`` misses a group that cannot be thinned.
    """
    alive = np.zeros(len(channels.group_of), bool)
    worths_of, dead_of = channels.by_group(worths), channels.by_group(dead)
    first = 0
    for group in channels.groups:
        width = group_width(group, widths)
        if width > group.channels or width % group.unit_size:
            raise ValueError(
                f"widths[{group.name!r}] is {width}: at most {group.channels}"
                + (f", in multiples of {group.unit_size}" if group.unit_size > 1 else "")
            )
        order = np.lexsort((-worths_of[group.name], dead_of[group.name]))
        alive[first + order[: width // group.unit_size]] = True
        first += group.units
    for name in channels.fixed:
        if name not in widths:
            raise ValueError(f"widths misses the group {name!r}")
    return channels.kept(alive)


def group_width(group: Group, widths: Mapping[str, int]) -> int:
    """The width that all members of a group have.

    Raises:
      ValueError: if the widths of its members differ; tied members must have the same width.
    """
    found = {member: widths[member] for member in group.members}
    if len(set(found.values())) > 1:
        text = ", ".join(f"{member} {width}" for member, width in found.items())
        raise ValueError(f"widths differ in groups that an addition ties: {text}")
    return found[group.name]


def worth(channels: Channels, importance: np.ndarray, died: np.ndarray) -> np.ndarray:
    """``[units]`` float64: what each unit is worth, comparable between groups.

    A living unit is worth its share of the importance in its group. A dead unit is worth almost
    nothing; of two dead units, the one that died later is worth more, because the search kept it
    longer.

    Args:
      channels: the layout of the searched network.
      importance: ``[units]`` as measured; for a dead unit, its last value while it was alive.
      died: ``[units]`` the step in which each unit died; 0 for living units.
    """
    group, alive = channels.group_of, died == 0
    living = np.where(alive, importance, 0.0).astype(np.float64)
    total = np.bincount(group, living, minlength=len(channels.groups))
    size = np.bincount(group, minlength=len(channels.groups))
    late = died / max(1, died.max(initial=0))
    shares = living / np.maximum(total[group], 1e-30)
    return np.where(alive, shares + _LEAST_WORTH, _LEAST_WORTH * late / size[group])


def revive(budget: Budget, dead: np.ndarray, worths: np.ndarray) -> np.ndarray:
    """Brings dead units back while a target is undercut by more than :data:`TOLERANCE`.

    All living units stay. The unit that died last comes back first. At most the share
    :data:`REVIVED` of all units comes back; one unit always may. The scales and biases of a dead
    unit are 0, so the network still computes the same.

    Args:
      budget: the budget, which the living units meet; its schedule says which groups may change.
      dead: ``[units]`` bool.
      worths: ``[units]``, see :func:`worth`.

    Returns:
      ``[units]`` bool, which units are still dead. The living units still meet the budget.
    """
    channels = budget.channels
    free = np.asarray(budget.slots.any(axis=0))[channels.group_of]
    dead = np.array(dead)
    counts = _counts(channels, ~dead)

    left = max(1, int(REVIVED * len(dead)))
    for unit in np.argsort(-worths, kind="stable"):
        if not (dead[unit] and free[unit]):
            continue
        low = (now := budget.relative_costs(counts)) < 1 - TOLERANCE
        if not left or not low.any():
            break
        more = counts.copy()
        more[channels.group_of[unit]] += channels.unit_sizes[channels.group_of[unit]]
        then = budget.relative_costs(more)
        if (then <= 1 + EXACTNESS).all() and (then > now)[low].any():
            counts, left, dead[unit] = more, left - 1, False
    return dead


def _counts(channels: Channels, alive: np.ndarray) -> np.ndarray:
    """``[groups]`` float64: the number of living channels."""
    units = np.bincount(channels.group_of, alive, minlength=len(channels.groups))
    return units * channels.unit_sizes


def with_counts(
    widths: Mapping[str, int], channels: Channels, counts: np.ndarray | list[int]
) -> WidthVector:
    """Returns ``widths`` with the widths of the groups of ``channels`` replaced by ``counts``.

    Args:
      widths: the width vector to change.
      channels: the layout of the network.
      counts: ``[groups]`` number of channels of each group.
    """
    changed = {
        member: int(count)
        for group, count in zip(channels.groups, counts, strict=True)
        for member in group.members
    }
    return WidthVector({name: changed.get(name, width) for name, width in widths.items()})

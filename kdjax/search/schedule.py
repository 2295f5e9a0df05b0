"""Schedules: blocks are thinned all at once or in sequence, and each slot has costs to reach."""

import math
from collections.abc import Sequence

import numpy as np

from kdjax.search.blocks import Block, check_block_name
from kdjax.search.channels import Channels
from kdjax.search.constraints import Constraint
from kdjax.tracing import Group

SCHEDULES = ("joint", "sequential")


def make_schedule(
    channels: Channels,
    blocks: Sequence[Block],
    constraints: Sequence[Constraint],
    schedule: str,
    order: Sequence[str],
    min_width: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which groups may change in each slot, and the costs to reach by the end of each.

    Args:
      channels: the layout of the network to thin.
      blocks: the partition of its groups.
      constraints: all constraints of the budget.
      schedule: ``joint`` or ``sequential``.
      order: names of the blocks in the order of a sequential schedule; if empty, all blocks that
        are not frozen, in their order.
      min_width: fewest channels that a group keeps; a number below 1 is a share of its channels.

    Returns:
      ``slots`` and ``waypoints`` of :class:`kdjax.search.Budget`.

    Raises:
      ValueError: if nothing could be thinned, or the order names an unknown or frozen block.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"search.schedule is {schedule!r}: one of {', '.join(SCHEDULES)}")
    targets = np.array([constraint.target for constraint in constraints])
    free = {block.name: block for block in blocks if not block.frozen}
    if not free:
        raise ValueError("search.blocks.frozen names every block: nothing could be thinned")
    active = {
        name: np.array([group.name in block.groups for group in channels.groups])
        for name, block in free.items()
    }
    if schedule == "joint":
        return np.any(list(active.values()), axis=0)[None], targets[None]
    names = tuple(order) or tuple(name for name, groups in active.items() if groups.any())
    for name in names:
        check_block_name(name, [block.name for block in blocks], "search.order")
        if name not in free:
            raise ValueError(f"search.order names {name!r}, which is frozen")
        if not active[name].any():
            raise ValueError(f"search.order names {name!r}, which has no groups to thin")
    if left := [name for name, block in free.items() if block.target and name not in names]:
        raise ValueError(f"search.order leaves out {left[0]!r}, which has a target of its own")
    slots = np.stack([active[name] for name in names])
    waypoints = [_waypoints(c, slots, names, channels, min_width) for c in constraints]
    return slots, np.stack(waypoints, axis=1)


def _waypoints(
    constraint: Constraint,
    slots: np.ndarray,
    names: Sequence[str],
    channels: Channels,
    min_width: float,
) -> np.ndarray:
    """``[slots]``: the share of a constraint's cost to reach by the end of each block's slot.

    There is one multiplier that meets the target if all blocks are thinned by it. Each block is
    thinned by that multiplier in its slot, so no block has to give more than it can. The target of
    a single block is met in the slot of that block.
    """
    scope = constraint.name.rpartition(".")[0]
    if scope:
        return np.where(np.arange(len(names)) >= names.index(scope), constraint.target, 1.0)
    full = np.array([group.channels for group in channels.groups], float)
    least = np.array([minimum_width(group, min_width) for group in channels.groups], float)
    pressed = constraint.pressure.any(axis=0)

    def cost(factor: float, done: np.ndarray) -> float:
        thinned = np.where(done & pressed, np.maximum(least, factor * full), full)
        return float(constraint.model.cost(thinned))

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        reached = cost(middle, np.logical_or.reduce(slots)) <= constraint.target
        low, high = (middle, high) if reached else (low, middle)
    way = [cost(low, np.logical_or.reduce(slots[: number + 1])) for number in range(len(names))]
    # The last waypoint is the target itself: the multiplier only comes close to it.
    return np.array([*way[:-1], constraint.target])


def minimum_width(group: Group, min_width: float) -> int:
    """The fewest channels that a group keeps, in whole units.

    Args:
      group: the channel group.
      min_width: a number of channels; a number below 1 is a share of the group's channels, and the
        result is rounded up.
    """
    channels = min_width if min_width >= 1 else max(1, math.ceil(min_width * group.channels - 1e-9))
    return min(group.channels, -(-int(channels) // group.unit_size) * group.unit_size)

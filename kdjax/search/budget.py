"""Resolves targets and blocks for a network: what the controller has to reach, and how.

Everything is checked here, before any training.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.search.blocks import Block
from kdjax.search.channels import Channels
from kdjax.search.constraints import Constraint, cost_models, make_constraints
from kdjax.search.latency import LatencyTable
from kdjax.search.penalty import CostModel
from kdjax.search.schedule import make_schedule, minimum_width

EXACTNESS = 1e-6  # A cost this close to its target, relative to it, counts as equal.


class TargetError(ValueError):
    """A target that no width vector can reach.

    Attributes:
      constraint: name of the constraint, such as ``flops``, or ``stage1.flops`` for a block's own.
    """

    def __init__(self, constraint: str, message: str):
        super().__init__(message)
        self.constraint = constraint


@dataclasses.dataclass(frozen=True, eq=False)
class Budget:
    """All constraints of a search, and which groups may change when.

    Attributes:
      channels: the layout of the scales.
      blocks: the partition of the groups.
      constraints: at least one constraint.
      resources: the cost models of the whole network: of FLOPs, parameters and, if measured, time.
      slots: ``[slots, groups]`` bool: which groups may change in each slot. There is one slot if
        all blocks are thinned at once, and one slot per block if they are thinned in sequence.
      waypoints: ``[slots, constraints]``: share of the cost to reach by the end of each slot.
      min_width: fewest channels that a group keeps; a number below 1 is a share of its channels.
      schedule: ``joint`` or ``sequential``.
      measured_on: device, batch size and dtype of the latency table; empty if there is none.
    """

    channels: Channels
    blocks: tuple[Block, ...]
    constraints: tuple[Constraint, ...]
    resources: tuple[CostModel, ...]
    slots: np.ndarray
    waypoints: np.ndarray
    min_width: float
    schedule: str
    measured_on: str = ""

    @property
    def slot_blocks(self) -> tuple[str, ...]:
        """For each slot the names of the blocks that change in it, joined by ``+`` for display."""
        return tuple(
            "+".join(
                block.name
                for block in self.blocks
                if any(
                    active and group.name in block.groups
                    for active, group in zip(slot, self.channels.groups, strict=True)
                )
            )
            for slot in self.slots
        )

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the groups that do not change in any slot."""
        return tuple(
            group.name
            for number, group in enumerate(self.channels.groups)
            if not self.slots[:, number].any()
        )

    def shares(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Name of each constraint -> share of its full cost that a network of these widths has."""
        counts = self.channels.counts_of(widths)
        return {c.name: float(c.model.cost(counts)) for c in self.constraints}

    def relative_costs(self, counts: np.ndarray) -> np.ndarray:
        """``[constraints]``: each cost over its target, with ``counts [groups]`` channels."""
        counts = np.asarray(counts, float)
        targets = np.array([constraint.target for constraint in self.constraints])
        return np.array([c.model.cost(counts) for c in self.constraints]) / targets

    def exceeded(self, widths: Mapping[str, int]) -> list[tuple[Constraint, float]]:
        """The constraints whose targets these widths exceed, each with its share of the cost."""
        shares = self.shares(widths)
        pairs = [(constraint, shares[constraint.name]) for constraint in self.constraints]
        return [(each, share) for each, share in pairs if share > each.target * (1 + EXACTNESS)]

    def allows(self, widths: Mapping[str, int]) -> bool:
        """Whether these widths meet every target."""
        return not self.exceeded(widths)

    def least(self, multiple: int = 1) -> dict[str, int]:
        """Name of each group -> the fewest channels that it may end with.

        Groups that may not change keep all. The others keep ``min_width`` in whole units, rounded
        up to ``multiple``, but never more than they have.
        """
        least = {}
        for group in self.channels.groups:
            step = math.lcm(multiple, group.unit_size)
            channels = -(-minimum_width(group, self.min_width) // step) * step
            held = group.name in self.held
            least[group.name] = group.channels if held else min(group.channels, channels)
        return least


def make_budget(
    channels: Channels,
    blocks: Sequence[Block],
    *,
    flops: float = 0.0,
    params: float = 0.0,
    latency: float = 0.0,
    latencies: LatencyTable | None = None,
    schedule: str = "joint",
    order: Sequence[str] = (),
    min_width: float = 1,
) -> Budget:
    """Resolves targets and schedule.

    Args:
      channels: the layout of the network to thin.
      blocks: the partition of its groups.
      flops: target for the whole network: a share in (0, 1], an absolute number, or 0 for none.
      params: likewise.
      latency: likewise, in microseconds; needs ``latencies``.
      latencies: times of the network's layers.
      schedule: ``joint`` or ``sequential``.
      order: names of the blocks in the order of a sequential schedule; if empty, all blocks that
        are not frozen, in their order.
      min_width: fewest channels that a group keeps; a number below 1 is a share of its channels.

    Raises:
      ValueError: if a target is out of range or cannot be reached (the message says why), nothing
        has a target, or the order names an unknown or frozen block.
    """
    models = cost_models(channels, blocks, latencies, latency)
    wanted = {"flops": flops, "params": params, "latency": latency}
    constraints = make_constraints(channels, blocks, models, wanted, latencies)
    if not constraints:
        raise ValueError(
            "search.target has no target: give flops, params, latency, or a target to a block"
        )
    slots, waypoints = make_schedule(channels, blocks, constraints, schedule, order, min_width)
    budget = Budget(
        channels=channels,
        blocks=tuple(blocks),
        constraints=tuple(constraints),
        resources=tuple(models.values()),
        slots=slots,
        waypoints=waypoints,
        min_width=min_width,
        schedule=schedule,
        measured_on="" if latencies is None else latencies.measured_on,
    )
    _check_reachable(budget)
    return budget


def _check_reachable(budget: Budget) -> None:
    """Raises TargetError if a target is below the cost at the smallest widths that are allowed."""
    groups = budget.channels.groups
    smallest = np.array([*budget.least().values()], np.float64)
    for constraint in budget.constraints:
        least = float(constraint.model.cost(smallest))
        if least > constraint.target:
            kept = (
                f"{budget.min_width:g} channel(s)"
                if budget.min_width >= 1
                else f"{budget.min_width:.3g} of its channels"
            )
            reasons = [f"every group keeps at least {kept}"]
            if budget.held:
                reasons.append(f"{', '.join(budget.held)} may not change")
            if tied := [" = ".join(g.members) for g in groups if len(g.members) > 1]:
                reasons.append(f"maps that are added or multiplied are equal ({', '.join(tied)})")
            if budget.channels.fixed:
                fixed = ", ".join(budget.channels.fixed)
                reasons.append(f"no normalisation scales the channels of {fixed}")
            full = constraint.model.full
            raise TargetError(
                constraint.name,
                f"the target {constraint.target:.4g} for {constraint.name} (a share of "
                f"{full:,.10g}; numbers above 1 are absolute) cannot be reached: the lowest "
                f"possible is {least:.4g}, since {'; '.join(reasons)}",
            )


def check_multiple(budget: Budget, multiple: int) -> None:
    """Checks that the smallest widths which are multiples of a number meet the targets.

    Args:
      budget: its targets, and the fewest channels that a group keeps.
      multiple: the number that widths are rounded to after the search.

    Raises:
      ValueError: if they do not; the message names the targets and both settings.
    """
    least = budget.least(multiple)
    exceeded = budget.exceeded(least)
    if not exceeded:
        return
    over = ", ".join(f"{c.name} {share:.1%} (target {c.target:.1%})" for c, share in exceeded)
    full = [
        group.name
        for group in budget.channels.groups
        if group.name not in budget.held and least[group.name] == group.channels
    ]
    whole = f"; {', '.join(full)} cannot be thinned then" if full else ""
    raise ValueError(
        f"search.multiple is {multiple}: with search.min_width {budget.min_width:g} the smallest "
        f"widths that are multiples of it cost too much: {over}{whole}; choose a smaller "
        "search.multiple or search.min_width, or a larger target"
    )


def near_collapse(budget: Budget, widths: Mapping[str, int]) -> str:
    """Returns a text with the groups that have very few channels left; empty if there are none.

    A group is near collapse if at most an eighth of its channels or at most two units are left:
    then a few channels carry everything that passes through it. Groups that have fewer than eight
    units at full width are left out.

    Args:
      budget: its schedule says which groups may change.
      widths: the widths of the thinned network.
    """
    thin = [
        f"{group.name} ({widths[group.name]} of {group.channels})"
        for number, group in enumerate(budget.channels.groups)
        if budget.slots[:, number].any()
        and group.channels >= 8 * group.unit_size
        and widths[group.name] <= max(2 * group.unit_size, group.channels // 8)
    ]
    return f"near collapse: {', '.join(thin)}" if thin else ""

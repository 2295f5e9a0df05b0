"""Targets and blocks resolved against a network: what the controller has to reach, and how.

A constraint is a cost (of the whole network or of one block), a target for it, and the pressure it
puts on each channel group. All of it is checked here, before any training.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.search.blocks import Block, known_block, layers_of
from kdjax.search.channels import Channels
from kdjax.search.latency import LatencyTable
from kdjax.search.penalty import RESOURCES, CostModel
from kdjax.tracing import Group

SCHEDULES = ("joint", "sequential")
_UNITS = {"flops": "flops", "params": "params", "latency": "microseconds"}
EXACTNESS = 1e-6  # Relative: what separates a cost from an equal target by rounding alone.


@dataclasses.dataclass(frozen=True, eq=False)
class Constraint:
    """One cost that has to come down.

    Attributes:
      name: such as ``flops``, or ``stage2.params`` for a block's own.
      model: of the layers whose cost it is.
      target: share of ``model.full`` to reach.
      pressure: ``[resources, groups]``: how much of each resource's penalty coefficient a group
        feels from this constraint, the blocks' strengths included; 0 where a group is frozen.
    """

    name: str
    model: CostModel
    target: float
    pressure: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Budget:
    """All constraints of a search, and which groups may change when.

    Attributes:
      channels: the layout of the scales.
      blocks: the partition.
      constraints: at least one.
      resources: the cost models of the whole network: of FLOPs, parameters and, if measured, time.
      slots: ``[slots, groups]`` bool: which groups may change in each slot; one slot when all
        blocks are thinned at once, one per block when one after another.
      waypoints: ``[slots, constraints]``: share of the cost to reach by the end of each slot.
      min_width: channels that every group keeps, or below 1 its share of them.
      schedule: ``joint`` or ``sequential``.
      measured_on: device, batch and dtype of the latency table; empty if there is none.
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
        """For each slot the blocks that change in it, for people."""
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
        """Names of the groups that change in no slot."""
        return tuple(
            group.name
            for number, group in enumerate(self.channels.groups)
            if not self.slots[:, number].any()
        )

    def shares(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Constraint -> share of its full cost that a network with these widths has."""
        counts = np.array([widths[group.name] for group in self.channels.groups], float)
        return {c.name: float(c.model.cost(counts)) for c in self.constraints}

    def allows(self, widths: Mapping[str, int]) -> bool:
        """Whether these widths meet every target."""
        shares = self.shares(widths)
        return all(shares[c.name] <= c.target * (1 + EXACTNESS) for c in self.constraints)


def share_of(value: float, full: float, name: str, unit: str) -> float:
    """A target given as a share in (0, 1] or as an absolute number, as a share.

    Args:
      value: the target.
      full: cost of the full network.
      name: of the field, for the message.
      unit: of the cost, for the message.

    Raises:
      ValueError: if it is neither, or above the full cost.
    """
    if not (np.isfinite(value) and value > 0):
        raise ValueError(
            f"{name} is {value:g}: expected a share in (0, 1] or an absolute number of {unit} up "
            f"to the full network's {full:,.10g}"
        )
    if value > full:
        raise ValueError(f"{name} is {value:g}: above the full network's {full:,.10g} {unit}")
    return value if value <= 1 else value / full


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
      channels: of the network to thin.
      blocks: the partition of its groups.
      flops: target for the whole network: a share in (0, 1], an absolute number, or 0 for none.
      params: likewise.
      latency: likewise, in microseconds; needs ``latencies``.
      latencies: times of the network's layers.
      schedule: ``joint`` or ``sequential``.
      order: of the blocks in a sequential schedule; empty: all that are not frozen, in order.
      min_width: channels that every group keeps, or below 1 the share of its channels.

    Raises:
      ValueError: if a target is out of range or cannot be reached (the message says why), nothing
        has a target, or the order names an unknown or frozen block.
    """
    if latency and latencies is None:
        raise ValueError(
            f"search.target.latency is {latency:g}: it needs search.latency_table, a file of "
            "`kdjax bench --layers`"
        )
    for block in blocks:
        if block.resource == "latency" and latencies is None:
            raise ValueError(
                f"search.blocks.resources is 'latency' for {block.name!r}: it needs "
                "search.latency_table, a file of `kdjax bench --layers`"
            )
    models = {resource: CostModel.of(resource, channels) for resource in RESOURCES}
    if latencies is not None:
        models["latency"] = latencies.model(channels)
    wanted = {"flops": flops, "params": params, "latency": latency}
    overall = {
        resource: share_of(
            wanted[resource], model.full, f"search.target.{resource}", _UNITS[resource]
        )
        for resource, model in models.items()
        if wanted[resource] != 0
    }
    constraints = [
        Constraint(
            resource,
            models[resource],
            target,
            _pressure(channels, blocks, [resource], overall, tuple(models)),
        )
        for resource, target in overall.items()
    ]
    for block in blocks:
        if not block.target:
            continue
        if not 0 < block.target <= 1:
            raise ValueError(
                f"search.blocks.targets is {block.target:g} for {block.name!r}: expected a share "
                "in (0, 1], or 0 for none"
            )
        if block.frozen:
            raise ValueError(
                f"search.blocks.targets is {block.target:g} for {block.name!r}, which is frozen"
            )
        if not block.groups:
            raise ValueError(
                f"search.blocks.targets is {block.target:g} for {block.name!r}, which has no "
                "groups to thin"
            )
        for resource in _penalised(block, overall):
            layers = layers_of(block, blocks, channels)
            if resource == "latency" and latencies is not None:
                model = latencies.model(channels, layers)
            else:
                model = CostModel.of(resource, channels, layers)
            pressure = _pressure(channels, [block], [resource], overall, tuple(models))
            constraints.append(
                Constraint(f"{block.name}.{resource}", model, block.target, pressure)
            )
    if not constraints:
        raise ValueError(
            "search.target has no target: give flops, params, latency, or a target to a block"
        )
    slots, waypoints = _schedule(channels, blocks, constraints, schedule, order, min_width)
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


def _penalised(block: Block, overall: Mapping[str, float]) -> tuple[str, ...]:
    """The resources that a block's channels are penalised for."""
    return {
        "flops": ("flops",),
        "params": ("params",),
        "latency": ("latency",),
        "both": RESOURCES,
        "targets": tuple(overall) or ("flops",),
    }[block.resource]


def _pressure(
    channels: Channels,
    blocks: Sequence[Block],
    own: Sequence[str],
    overall: Mapping[str, float],
    resources: Sequence[str],
) -> np.ndarray:
    """``[resources, groups]``; a block set to ``targets`` feels the constraint's own resource."""
    pressure = np.zeros((len(resources), len(channels.groups)), np.float32)
    for block in blocks:
        if block.frozen:
            continue
        felt = own if block.resource == "targets" else _penalised(block, overall)
        for number, group in enumerate(channels.groups):
            if group.name in block.groups:
                for resource in felt:
                    pressure[resources.index(resource), number] = block.strength / len(felt)
    return pressure


def _schedule(
    channels: Channels,
    blocks: Sequence[Block],
    constraints: Sequence[Constraint],
    schedule: str,
    order: Sequence[str],
    min_width: float,
) -> tuple[np.ndarray, np.ndarray]:
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
        known_block(name, [block.name for block in blocks], "search.order")
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
    """``[slots]``: where a cost should be after each block's slot.

    Each block goes to the multiplier at which, with all of them there, the target is met: what is
    asked of a block never exceeds what it can give. A block's own target is met within its slot.
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
    # The last is the target itself, to which the multiplier comes close.
    return np.array([*way[:-1], constraint.target])


def _check_reachable(budget: Budget) -> None:
    """Compares each target with what is left when all that may change is at its minimum."""
    groups = budget.channels.groups
    for constraint in budget.constraints:
        smallest = np.array(
            [
                group.channels
                if group.name in budget.held
                else minimum_width(group, budget.min_width)
                for group in groups
            ],
            np.float64,
        )
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
                reasons.append(f"additions tie {', '.join(tied)}")
            if budget.channels.fixed:
                reasons.append(f"{', '.join(budget.channels.fixed)} have no scales")
            full = constraint.model.full
            raise ValueError(
                f"the target {constraint.target:.4g} for {constraint.name} (a share of "
                f"{full:,.10g}; numbers above 1 are absolute) cannot be reached: {least:.4g} is "
                f"the least, since {'; '.join(reasons)}"
            )


def minimum_width(group: Group, min_width: float) -> int:
    """Channels that a group keeps at least: whole units.

    Args:
      group: of channels.
      min_width: a number of channels, or below 1 a share of the group's, rounded up.
    """
    channels = min_width if min_width >= 1 else max(1, math.ceil(min_width * group.channels - 1e-9))
    return min(group.channels, -(-int(channels) // group.unit) * group.unit)


def near_collapse(budget: Budget, widths: Mapping[str, int]) -> str:
    """Names the groups that are down to almost nothing; empty where there are none.

    A group is near collapse at an eighth of its channels or fewer, or at two, unless it is narrow
    to begin with: from then on a few channels carry all that passes it.

    Args:
      budget: whose schedule says which groups may change.
      widths: of the thinned network.
    """
    thin = [
        f"{group.name} ({widths[group.name]} of {group.channels})"
        for number, group in enumerate(budget.channels.groups)
        if budget.slots[:, number].any()
        and group.channels >= 8 * group.unit
        and widths[group.name] <= max(2 * group.unit, group.channels // 8)
    ]
    return f"near collapse: {', '.join(thin)}" if thin else ""

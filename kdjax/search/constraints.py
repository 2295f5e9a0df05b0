"""Constraints: the costs that a search has to reduce.

A constraint is a cost (of the whole network or of one block), a target for this cost, and the
pressure that the constraint puts on each channel group.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.search.blocks import Block, layers_of
from kdjax.search.channels import Channels
from kdjax.search.latency import LatencyTable
from kdjax.search.penalty import RESOURCES, CostModel

_UNITS = {"flops": "flops", "params": "params", "latency": "microseconds"}


@dataclasses.dataclass(frozen=True, eq=False)
class Constraint:
    """One cost that has to come down.

    Attributes:
      name: such as ``flops``, or ``stage2.params`` for the cost of one block.
      model: the cost model of the layers that count.
      target: share of ``model.full`` to reach.
      pressure: ``[resources, groups]``: how much of each resource's penalty coefficient a group
        feels from this constraint, the blocks' strengths included; 0 where a group is frozen.
    """

    name: str
    model: CostModel
    target: float
    pressure: np.ndarray


def cost_models(
    channels: Channels, blocks: Sequence[Block], latencies: LatencyTable | None, latency: float
) -> dict[str, CostModel]:
    """The cost model of the whole network for each resource.

    Args:
      channels: the layout of the network to thin.
      blocks: the partition of its groups.
      latencies: times of the network's layers; None if there is no table.
      latency: the target for the time of the whole network; 0 for none.

    Raises:
      ValueError: if a target or a block needs the times of layers, and there is no table.
    """
    timed = [
        f"search.blocks.resources is 'latency' for {b.name!r}"
        for b in blocks
        if b.resource == "latency"
    ]
    if latency:
        timed.insert(0, f"search.target.latency is {latency:g}")
    if timed and latencies is None:
        raise ValueError(
            f"{timed[0]}: it needs search.latency_table, a file of `kdjax bench --layers`"
        )
    models = {resource: CostModel.of(resource, channels) for resource in RESOURCES}
    return models if latencies is None else {**models, "latency": latencies.model(channels)}


def make_constraints(
    channels: Channels,
    blocks: Sequence[Block],
    models: Mapping[str, CostModel],
    targets: Mapping[str, float],
    latencies: LatencyTable | None,
) -> list[Constraint]:
    """The constraints on the cost of the whole network and on the costs of single blocks.

    Args:
      channels: the layout of the network to thin.
      blocks: the partition of its groups.
      models: the result of :func:`cost_models`.
      targets: resource -> target for the whole network; 0 for none.
      latencies: times of the network's layers; None if there is no table.

    Raises:
      ValueError: if a target is out of range.
    """
    overall = {
        resource: share_of(
            targets[resource], model.full, f"search.target.{resource}", _UNITS[resource]
        )
        for resource, model in models.items()
        if targets[resource] != 0
    }
    constraints = [
        Constraint(
            resource,
            models[resource],
            target,
            _pressure(channels, blocks, resource, overall, tuple(models)),
        )
        for resource, target in overall.items()
    ]
    for block in blocks:
        if not block.target:
            continue
        _check_target(block)
        for resource in _penalised(block, overall):
            layers = layers_of(block, blocks, channels)
            if resource == "latency" and latencies is not None:
                model = latencies.model(channels, layers)
            else:
                model = CostModel.of(resource, channels, layers)
            pressure = _pressure(channels, [block], resource, overall, tuple(models))
            constraints.append(
                Constraint(f"{block.name}.{resource}", model, block.target, pressure)
            )
    return constraints


def share_of(value: float, full: float, name: str, unit: str) -> float:
    """Returns as a share a target that is given as a share in (0, 1] or as an absolute number.

    Args:
      value: the target.
      full: cost of the full network.
      name: name of the field, for the message.
      unit: unit of the cost, for the message.

    Raises:
      ValueError: if the target is neither, or is above the full cost.
    """
    if not (np.isfinite(value) and value > 0):
        raise ValueError(
            f"{name} is {value:g}: expected a share in (0, 1] or an absolute number of {unit} up "
            f"to the full network's {full:,.10g}"
        )
    if value > full:
        raise ValueError(f"{name} is {value:g}: above the full network's {full:,.10g} {unit}")
    return value if value <= 1 else value / full


def _check_target(block: Block) -> None:
    """Raises ValueError for a target that the block cannot have."""
    given = f"search.blocks.targets is {block.target:g} for {block.name!r}"
    if not 0 < block.target <= 1:
        raise ValueError(f"{given}: expected a share in (0, 1], or 0 for none")
    if block.frozen:
        raise ValueError(f"{given}, which is frozen")
    if not block.groups:
        raise ValueError(f"{given}, which has no groups to thin")


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
    resource: str,
    overall: Mapping[str, float],
    resources: Sequence[str],
) -> np.ndarray:
    """The pressure ``[resources, groups]`` of a constraint.

    Groups of a block whose resource is ``targets`` are penalised for ``resource``, which is the
    constraint's.
    """
    pressure = np.zeros((len(resources), len(channels.groups)), np.float32)
    for block in blocks:
        if block.frozen:
            continue
        penalised = (resource,) if block.resource == "targets" else _penalised(block, overall)
        for number, group in enumerate(channels.groups):
            if group.name in block.groups:
                for each in penalised:
                    pressure[resources.index(each), number] = block.strength / len(penalised)
    return pressure

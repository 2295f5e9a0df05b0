"""Widens a network uniformly, as far as its budget allows."""

import math
from collections.abc import Callable, Collection, Mapping

from kdjax.search.channels import Channels
from kdjax.search.extract import group_width, with_counts
from kdjax.widths import WidthVector


def expand(
    widths: Mapping[str, int],
    channels: Channels,
    allows: Callable[[Mapping[str, int]], bool],
    *,
    limit: Mapping[str, int],
    least: Mapping[str, int] | None = None,
    multiple: int = 1,
    held: Collection[str] = (),
) -> WidthVector:
    """Returns the widths times the largest uniform multiplier that a budget allows.

    Rounding down leaves a part of the budget unused. Groups then get one more multiple each, those
    that lost most by rounding first, as long as the budget allows it.

    Args:
      widths: the widths to multiply; a multiplier below 1 shrinks them.
      channels: says which groups are tied, come in units, or cannot change.
      allows: whether a width vector is within the budget; if it allows one width vector, it has to
        allow all narrower ones too.
      limit: the largest allowed width of each group.
      least: the smallest allowed width of each group, from :meth:`kdjax.search.Budget.least`; None:
        one multiple.
      multiple: the width of every group that changes is a multiple of this number, or the group's
        limit if that is smaller.
      held: names of groups that stay at their limit.

    Raises:
      ValueError: if the budget does not even allow the smallest widths.

    References:
      Gordon et al., *MorphNet*, CVPR 2018, algorithm 1, step 3.
    """
    groups = channels.groups
    steps = [math.lcm(multiple, group.unit_size) for group in groups]
    limits = [limit[group.name] for group in groups]
    floors = steps if least is None else [least[group.name] for group in groups]
    stays = [group.name in held for group in groups]
    wanted = [group_width(group, widths) for group in groups]

    def floored(factor: float) -> list[int]:
        return [
            most if stay else min(most, max(few, math.floor(factor * width / step + 1e-9) * step))
            for width, step, few, most, stay in zip(
                wanted, steps, floors, limits, stays, strict=True
            )
        ]

    def vector(chosen: list[int]) -> WidthVector:
        return with_counts(limit, channels, chosen)

    low, high = 0.0, max(most / width for most, width in zip(limits, wanted, strict=True))
    if not allows(vector(floored(low))):
        raise ValueError(
            f"the budget does not allow the smallest widths, in multiples of {multiple}: choose a "
            "smaller search.multiple or search.min_width, or a larger target"
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

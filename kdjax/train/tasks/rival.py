"""The uniform rival of a searched network: all layers thinned by one multiplier, at equal cost."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kdjax.search import EXACTNESS, RESOURCES, Budget, expand
from kdjax.widths import WidthVector


class Rival(NamedTuple):
    """A uniformly thinned network.

    Attributes:
      widths: group -> channels.
      costs: resource -> cost.
      binding: the resource whose limit keeps the network from being wider.
      note: for the user: which resource limits the network, and how much it has of the other one.
    """

    widths: WidthVector
    costs: Mapping[str, float]
    binding: str
    note: str


def uniform_rival(
    budget: Budget,
    full: WidthVector,
    compact: WidthVector,
    costs_of: Callable[[Mapping[str, int]], dict[str, float]],
) -> Rival:
    """Returns the widest network within the search's limits that a single multiplier gives.

    Args:
      budget: the budget of the search.
      full: widths of the network that was searched.
      compact: the widths that were found.
      costs_of: width vector -> resource -> cost.
    """
    whole = costs_of(full)
    limits = _limits(budget, whole, costs_of(compact))
    widths = _thinned(budget, full, compact, limits)
    found = costs_of(widths)
    binding = max(limits, key=lambda resource: found[resource] / limits[resource])
    return Rival(widths, found, binding, _note(budget, binding, found, whole))


def _limits(
    budget: Budget, full: Mapping[str, float], compact: Mapping[str, float]
) -> dict[str, float]:
    """Returns resource -> the cost that the rival may have: the target of the whole network.

    If only blocks have targets for a resource, it is the cost of the compact network, because how a
    cost is divided among blocks is part of what is compared.
    """
    limits: dict[str, float] = {}
    for constraint in budget.constraints:
        resource = constraint.model.resource
        if constraint.name == resource:
            limits[resource] = constraint.target * full[resource] * (1 + EXACTNESS)
        else:
            limits.setdefault(resource, compact[resource])
    return limits


def _thinned(
    budget: Budget,
    full: WidthVector,
    compact: WidthVector,
    limits: Mapping[str, float],
) -> WidthVector:
    """Thins all groups that the search may thin by one multiplier; the others keep their width."""
    models = {model.resource: model for model in budget.resources}

    def allows(vector: Mapping[str, int]) -> bool:
        # Dozens of vectors are tried, so costs are computed from the full network's trace alone.
        counts = budget.channels.counts_of(vector)
        found = {name: float(models[name].cost(counts)) * models[name].full for name in limits}
        return all(
            (round(found[name]) if name in RESOURCES else found[name]) <= most
            for name, most in limits.items()
        )

    # Groups on which no target puts pressure are not thinned by the search either.
    pressed = np.any([c.pressure.any(axis=0) for c in budget.constraints], axis=0)
    kept = [
        group.name
        for group, has_pressure in zip(budget.channels.groups, pressed, strict=True)
        if group.name in budget.held
        or (not has_pressure and compact[group.name] == full[group.name])
    ]
    return expand(full, budget.channels, allows, limit=full, held=kept)


def _note(
    budget: Budget, binding: str, found: Mapping[str, float], whole: Mapping[str, float]
) -> str:
    other = next(resource for resource in ("flops", "params") if resource != binding)
    text = (
        f"the uniform network is held to the budget by its {binding}, "
        f"{found[binding] / whole[binding]:.1%} of the full network's, and has "
        f"{found[other] / whole[other]:.1%} of the {other}"
    )
    if budget.held:
        text += f"; it also keeps the widths of {', '.join(budget.held)}"
    if all(c.name != c.model.resource for c in budget.constraints):
        text += "; the targets of single blocks do not bind it, only their total does"
    return text

"""The result of a search: the compact widths, the uniform rival, and the weights to go on with."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdjax import costs, models, tracing
from kdjax.search import (
    TOLERANCE,
    Budget,
    Channels,
    alive_widths,
    check_rebuilt,
    expand,
    kept_channels,
    minimum_width,
    near_collapse,
    revive,
    round_widths,
    worth,
)
from kdjax.search.extract import Kept
from kdjax.train.program.state import TrainState
from kdjax.train.tasks.experiment import Experiment
from kdjax.train.tasks.rival import uniform_rival
from kdjax.train.tasks.search_stage import importance_and_deaths
from kdjax.widths import WidthVector


class StructureError(ValueError):
    """A search that did not end within its budget; the message says where and why."""


class Candidate(NamedTuple):
    """A network that the comparison trains.

    Attributes:
      name: the name in tables and results.
      structure: ``compact`` or ``uniform``.
      distilled: whether the teacher teaches it.
    """

    name: str
    structure: str
    distilled: bool


CANDIDATES = (
    Candidate("compact, distilled", "compact", True),
    Candidate("compact, alone", "compact", False),
    Candidate("uniform, distilled", "uniform", True),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """The outcome of a search.

    Attributes:
      full, alive, compact, uniform: width vectors. ``full`` is the network before the search,
        ``alive`` what was left after it, ``compact`` is ``alive`` after rounding and widening, and
        ``uniform`` is the full network times one multiplier, at equal budget.
      kept: group -> indices of the channels that stay in ``compact``.
      targets: constraint -> share of the full cost to reach.
      shares: constraint -> share of the full cost that ``compact`` has.
      full_costs, compact_costs, uniform_costs: resource -> cost.
      channels: numbers of channels: ``full``; ``alive`` at the end of the search; ``after`` all
        changes to the widths; ``back`` and ``gone``: added and removed between these two.
      binding: the resource whose limit keeps ``uniform`` from being wider.
      note: what the user should know, such as why a target is undercut; or empty.
    """

    full: WidthVector
    alive: WidthVector
    compact: WidthVector
    uniform: WidthVector
    kept: Mapping[str, np.ndarray]
    targets: Mapping[str, float]
    shares: Mapping[str, float]
    full_costs: Mapping[str, float]
    compact_costs: Mapping[str, float]
    uniform_costs: Mapping[str, float]
    channels: Mapping[str, int]
    binding: str
    note: str

    def widths_of(self, candidate: Candidate) -> WidthVector:
        """The widths of a candidate."""
        return {"compact": self.compact, "uniform": self.uniform}[candidate.structure]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of ``structure.json``.

        It has widths and costs before and after the search, targets, and shares reached.
        """
        return {
            "widths": dict(sorted(self.compact.items())),
            "cost": {
                "before": _shown(self.full_costs),
                "after": _shown(self.compact_costs),
                "uniform": _shown(self.uniform_costs),
            },
            "uniform_bound_by": self.binding,
            "targets": dict(self.targets),
            "shares": dict(self.shares),
            "widths_before": dict(sorted(self.full.items())),
            "widths_alive": dict(sorted(self.alive.items())),
            "widths_uniform": dict(sorted(self.uniform.items())),
            "channels": dict(self.channels),
            "note": self.note,
        }

    def describe(self) -> str:
        """Returns lines for the user: the widths before and after, and the budget."""
        changed = ", ".join(
            f"{group} {width} > {self.compact[group]}" for group, width in self.full.items()
        )
        reached = ", ".join(
            f"{name} {share:.4f} (target {self.targets[name]:.4f})"
            for name, share in self.shares.items()
        )
        left = f"{self.channels['after']:,} of {self.channels['full']:,} channels"
        return f"Found: {reached}; {left}\n{changed}\n{self.note}"


def _shown(costs: Mapping[str, float]) -> dict[str, float]:
    """Returns costs as they are shown to the user: an estimated time is in milliseconds."""
    shown = dict(costs)
    if "latency" in shown:
        shown["latency_ms"] = shown.pop("latency") / 1e3
    return shown


def find_structure(experiment: Experiment, budget: Budget, state: TrainState) -> Structure:
    """Counts the living channels, rounds and widens as configured, and finds the uniform rival.

    Args:
      experiment: the experiment, with configuration and architecture.
      budget: the budget of the search.
      state: the state at the end of the search.

    Raises:
      StructureError: if the living channels exceed a target.
    """
    config, architecture = experiment.config.search, experiment.architecture
    full, channels = architecture.widths, budget.channels
    importance, died = importance_and_deaths(state)
    found = alive_widths(channels, full, died > 0)
    if not budget.allows(found):
        raise StructureError(_why_not(budget, found))
    worths = worth(channels, importance, died)
    dead = revive(budget, died > 0, worths)
    compact = alive_widths(channels, full, dead)
    if config.expand:
        compact = expand(
            compact,
            channels,
            budget.allows,
            limit=full,
            least=budget.least(config.multiple),
            multiple=config.multiple,
            held=budget.held,
        )
    elif config.multiple > 1:
        compact = round_widths(compact, budget, config.multiple, worths)
    kept = kept_channels(channels, worths, dead, compact)
    _check(experiment, channels, kept, compact)
    costs_of = _cost_counter(experiment, budget)
    rival = uniform_rival(budget, full, compact, costs_of)
    equal, none_dead = np.zeros(len(channels.group_of)), np.zeros(len(channels.group_of), bool)
    kept_uniform = kept_channels(channels, equal, none_dead, rival.widths)
    _check(experiment, channels, kept_uniform, rival.widths)
    shares = budget.shares(compact)
    targets = {constraint.name: constraint.target for constraint in budget.constraints}
    changes = [compact[group.name] - found[group.name] for group in channels.groups]
    counted = {
        "full": sum(group.channels for group in channels.groups),
        "alive": sum(found[group.name] for group in channels.groups),
        "after": sum(compact[group.name] for group in channels.groups),
        "back": sum(change for change in changes if change > 0),
        "gone": -sum(change for change in changes if change < 0),
    }
    notes = (
        _changes_note(counted, config),
        _targets_note(targets, shares, config.multiple),
        near_collapse(budget, compact),
        f"estimated times are of {budget.measured_on}" if budget.measured_on else "",
        rival.note,
    )
    return Structure(
        full=full,
        alive=found,
        compact=compact,
        uniform=rival.widths,
        kept=kept,
        targets=targets,
        shares=shares,
        full_costs=costs_of(full),
        compact_costs=costs_of(compact),
        uniform_costs=rival.costs,
        channels=counted,
        binding=rival.binding,
        note="; ".join(filter(None, notes)),
    )


def candidate_start(
    budget: Budget,
    structure: Structure,
    teacher: Mapping[str, Any],
    searched: Mapping[str, Any],
) -> Callable[[TrainState], TrainState]:
    """Returns a function: initial state -> state in which candidates start from trained weights.

    The compact candidates take the channels that survived the search. The uniform candidate takes
    the teacher's channels with the largest scales, as many as it has itself.

    Args:
      budget: the budget of the search.
      structure: the structure that the search found.
      teacher: variables of the full network before the search.
      searched: variables of the full network after it.
    """
    # The budget's layout is of a stage's parameters; here it is of the network's own.
    channels = dataclasses.replace(budget.channels, root=())
    magnitudes = np.asarray(channels.magnitudes(teacher["params"]))
    none_dead = np.zeros(len(magnitudes), bool)
    kept = kept_channels(channels, magnitudes, none_dead, structure.uniform)
    sliced = {
        # Dead channels output nothing, not even a constant, so the network is equal without them.
        "compact": _sliced(searched, channels, structure.kept),
        "uniform": _sliced(teacher, channels, kept),
    }

    def begin(state: TrainState) -> TrainState:
        params, batch_stats = dict(state.params), dict(state.batch_stats)
        for number, candidate in enumerate(CANDIDATES, start=1):
            start = sliced[candidate.structure]
            params[models.student_name(number)] = start["params"]
            batch_stats[models.student_name(number)] = start["batch_stats"]
        return state.replace(params=params, batch_stats=batch_stats)

    return begin


def _sliced(variables: Mapping[str, Any], channels: Channels, kept: Kept) -> Any:
    alive = tracing.alive_from_kept(channels.traced, kept)
    return tracing.take(variables, channels.traced, alive)


def _check(experiment: Experiment, channels: Channels, kept: Kept, widths: WidthVector) -> None:
    try:
        shape = experiment.dataset.image_shape
        check_rebuilt(experiment.architecture, channels, kept, widths, shape)
    except ValueError as error:
        raise StructureError(str(error)) from None


def _cost_counter(
    experiment: Experiment, budget: Budget
) -> Callable[[Mapping[str, int]], dict[str, float]]:
    """Returns a function: width vector -> costs.

    If a latency table was given, the costs include ``latency``, in microseconds.
    """
    timed = [model for model in budget.resources if model.resource == "latency"]

    def count(vector: Mapping[str, int]) -> dict[str, float]:
        cost = costs.count(experiment.architecture, vector, experiment.dataset.image_shape)
        found: dict[str, float] = {"flops": cost.flops, "macs": cost.macs, "params": cost.params}
        counts = budget.channels.counts_of(vector)
        return found | {model.resource: float(model.cost(counts)) * model.full for model in timed}

    return count


def _why_not(budget: Budget, found: Mapping[str, int]) -> str:
    over = ", ".join(
        f"{c.name} {share:.4f} for {c.target:.4f}" for c, share in budget.exceeded(found)
    )
    floor = [
        group.name
        for group in budget.channels.groups
        if found[group.name] <= minimum_width(group, budget.min_width)
    ]
    ties = [" = ".join(g.members) for g in budget.channels.groups if len(g.members) > 1]
    reasons = [f"groups at their minimum width: {', '.join(floor) or 'none'}"]
    if ties:
        reasons.append(f"equal because their maps are added or multiplied: {', '.join(ties)}")
    if budget.schedule == "sequential":
        reasons.append("with the schedule sequential a block does not change after its turn")
    return f"the search ended above its target: {over}; {'; '.join(reasons)}"


def _changes_note(counted: Mapping[str, int], config: Any) -> str:
    """Returns how many channels were added and removed after the search, and why."""
    if config.expand:
        steps = f", in multiples of {config.multiple}" if config.multiple > 1 else ""
        why = f"to widen what was found{steps}"
    elif config.multiple > 1:
        why = f"to make widths multiples of {config.multiple}"
    else:
        why = "to come closer to a target that was undercut"
    parts = [
        f"{counted[key]:,} of {counted['full']:,} channels {said}"
        for key, said in (("back", "were added"), ("gone", "were removed"))
        if counted[key]
    ]
    return f"{' and '.join(parts)} after the search, {why}" if parts else ""


def _targets_note(targets: Mapping[str, float], shares: Mapping[str, float], multiple: int) -> str:
    """Returns which targets the structure stays well below, and why."""
    low = {name: share for name, share in shares.items() if share < (1 - TOLERANCE) * targets[name]}
    if not low:
        return ""
    why = f"multiples of {multiple}" if multiple > 1 else "single channels, or other targets,"
    ended = ", ".join(f"{name} (at {share / targets[name]:.1%})" for name, share in low.items())
    far = f"more than {100 * TOLERANCE:g} % below the target"
    return f"{far}: {ended}; {why} allow no width in between"

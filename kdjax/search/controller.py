"""The controller: an optimiser whose proximal step thins the network down to its budget.

After the wrapped optimiser's update every channel's scales shrink by the penalty's proximal map.
The strength of each constraint's penalty is adapted at every step so that the cost follows a plan,
a straight line from the full cost to the target. If a step would cross the target, a line search
shortens it, so that the cost meets the target to within one channel. All of this happens inside the
compiled step: the strengths are part of the optimiser's state, and nothing is tuned by hand or on
the host.

References:
  Parikh, Boyd, *Proximal Algorithms*, 2014, section 6.5.2 (the map of the largest magnitude).
  Gordon et al., *MorphNet*, CVPR 2018, section 3 (the penalty).
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.search.budget import Budget
from kdjax.search.criteria import CRITERIA, Criterion, Evidence
from kdjax.search.proximal import line_search, proximal
from kdjax.search.schedule import minimum_width
from kdjax.search.strength import Feedback, Moment

_LEAST_WEIGHT = 1e-3  # Least share of its penalty that a shielded group keeps after a deadline.
_LARGEST_SPEEDUP = 20.0  # Largest factor by which the step of a unit of low worth is enlarged.


class ControllerState(NamedTuple):
    """The state of the controller; all zeros before the first step.

    Attributes:
      step: scalar int32, number of steps done.
      settled: scalar int32, number of slots of the schedule whose structure is final.
      dead: ``[units]`` bool, whether each unit is dead.
      died: ``[units]`` int32, the step in which each unit died, counted from 1; 0 while it lives.
      importance: ``[units]`` float32, by the criterion; a dead unit keeps its last value.
      log_strength: ``[constraints]`` float32, the part of log(strength) that builds up over steps.
      strength: ``[constraints]`` float32, as used in the last step.
      share: ``[constraints]`` float32, share of the full cost that the living channels have.
      penalty: scalar float32, the weighted penalty in units of the loss.
    """

    step: chex.Array
    settled: chex.Array
    dead: chex.Array
    died: chex.Array
    importance: chex.Array
    log_strength: chex.Array
    strength: chex.Array
    share: chex.Array
    penalty: chex.Array


class SearchState(NamedTuple):
    """The state of the wrapped optimiser and the state of the controller."""

    optimizer: Any
    controller: ControllerState


@dataclasses.dataclass(frozen=True, eq=False)
class Timetable:
    """The timetable of a search: how many steps it has, and over how many the cost goes down.

    Attributes:
      steps: number of steps of the whole search.
      descent: number of steps over which the cost goes down, all slots together.
    """

    steps: int
    descent: int

    def slot_length(self, slots: int) -> float:
        """The number of steps in each slot of the schedule."""
        return self.descent / slots

    def deadlines(self, slots: int) -> np.ndarray:
        """``[slots]``: the step from which each slot's goal is enforced."""
        ends = np.ceil(self.slot_length(slots) * np.arange(1, slots + 1)).astype(np.int32) - 1
        # The last slot may use half of the steps after the descent. The rest is further training.
        ends[-1] = max(0, self.descent + (self.steps - self.descent) // 2 - 1)
        return ends


def controlled(
    optimizer: optax.GradientTransformation,
    budget: Budget,
    *,
    timetable: Timetable,
    learning_rate: optax.Schedule,
    threshold: float,
    cost_exponent: float = 1.0,
    criterion: str = "scale",
) -> optax.GradientTransformation:
    """Returns ``optimizer`` followed by the proximal step that leads the network to its budget.

    Args:
      optimizer: moves all parameters first; it must not decay the scales.
      budget: the constraints; ``budget.channels.root`` says where the network is in the parameters.
      timetable: the number of steps, and over how many of them the cost goes down.
      learning_rate: step -> learning rate of the optimiser. It also scales the proximal step.
      threshold: a channel is dead if none of its |scale| is above this number.
      cost_exponent: in (0, 1]. With 1, channels are penalised in proportion to the cost that
        depends on their group. With a smaller exponent the loss decides more.
      criterion: name of the criterion that says which channels of a group are worth most, one of
        :data:`kdjax.search.criteria.CRITERIA`.

    Returns:
      A transformation whose state is a :class:`SearchState`. The controller's part starts with
      zeros only. Dead channels have scales of exactly 0.

    Raises:
      ValueError: if the threshold is not above 0, the exponent is not in (0, 1], the criterion is
        unknown, or the timetable's descent has no steps or more than the search.
    """
    if not threshold > 0:
        raise ValueError(f"search.threshold is {threshold}: it must be above 0")
    if not 0 < timetable.descent <= timetable.steps:
        raise ValueError(
            f"a search of {timetable.steps} steps cannot descend over {timetable.descent}"
        )
    if not 0 < cost_exponent <= 1:
        raise ValueError(f"search.cost_exponent is {cost_exponent}: it must be in (0, 1]")
    if criterion not in CRITERIA:
        raise ValueError(f"search.criterion is {criterion!r}: one of {', '.join(CRITERIA)}")
    thin = _Thinning(
        budget, timetable, learning_rate, threshold, cost_exponent, CRITERIA[criterion]
    )
    channels = budget.channels

    def init(params: Any) -> SearchState:
        count = len(budget.constraints)
        zeros = jnp.zeros(count, jnp.float32)
        zero = jnp.zeros((), jnp.int32)
        units = len(channels.group_of)
        controller = ControllerState(
            step=zero,
            settled=zero,
            dead=jnp.zeros(units, bool),
            died=jnp.zeros(units, jnp.int32),
            importance=jnp.zeros(units, jnp.float32),
            log_strength=zeros,
            strength=zeros,
            share=zeros,
            penalty=jnp.float32(0),
        )
        return SearchState(optimizer.init(params), controller)

    def update(updates: Any, state: SearchState, params: Any = None) -> tuple[Any, SearchState]:
        gradients = updates
        updates, inner = optimizer.update(gradients, state.optimizer, params)
        old_scales, old_biases = channels.scales(params), channels.biases(params)
        scales = old_scales + channels.scales(updates)
        biases = old_biases + channels.biases(updates)
        shrunk, controller = thin(state.controller, Evidence(scales, params, gradients))
        # Scale and bias shrink by the same factor; for a dead channel both are 0.
        factor = jnp.where(shrunk == scales, 1.0, shrunk / jnp.where(scales == 0, 1.0, scales))
        biases = jnp.where(controller.dead, 0.0, biases * factor)
        updates = channels.with_scales(updates, shrunk - old_scales, biases - old_biases)
        return updates, SearchState(inner, controller)

    return optax.GradientTransformation(init, update)


class _Thinning:
    """One step of the controller: ``(state, evidence) -> (scales, state)``, traced by JAX."""

    def __init__(
        self,
        budget: Budget,
        timetable: Timetable,
        learning_rate: optax.Schedule,
        threshold: float,
        cost_exponent: float,
        criterion: Criterion,
    ):
        channels, slots = budget.channels, len(budget.slots)
        self._budget, self._channels = budget, channels
        self._learning_rate, self._threshold = learning_rate, threshold
        self._cost_exponent, self._criterion = cost_exponent, criterion
        self._slots, self._slot_length = slots, timetable.slot_length(slots)
        self._deadlines = jnp.asarray(timetable.deadlines(slots))
        self._active = jnp.asarray(budget.slots)
        self._feedback = Feedback(budget, self._slot_length, float(learning_rate(0)))
        least = np.array([minimum_width(group, budget.min_width) for group in channels.groups])
        self._least_channels = least
        self._least_units = (least // channels.unit_sizes).astype(int)[channels.group_of]
        first = np.cumsum([0] + [group.units for group in channels.groups[:-1]])
        self._first_unit = first[channels.group_of]
        self._pressure = np.stack([constraint.pressure for constraint in budget.constraints])
        self._unit_share = np.bincount(channels.group_of) / len(channels.group_of)
        self._per_mean_width = 1.0 / np.mean([group.channels for group in channels.groups])

    def __call__(
        self, state: ControllerState, evidence: Evidence
    ) -> tuple[chex.Array, ControllerState]:
        scales, moment = evidence.scales, self._moment(state)
        slot, forced = moment.slot, moment.forced
        # How strongly each group is penalised.
        share = self._shares(~state.dead)
        strength, log_strength = self._feedback(state.log_strength, share, moment)
        active = self._active[slot] & moment.unsettled
        weights = self._weights(state, strength, active, forced)
        # How far each unit would shrink.
        importance = self._importance(state, evidence)
        protected = self._protected(state, importance)
        step_sizes = self._step_sizes(state, scales, weights * active, importance)
        step_sizes = jnp.where(protected, 0.0, step_sizes)
        # How much of that step is taken.
        may_die = active[self._channels.group_of]
        prune_at = self._prune_at(state, scales, step_sizes, may_die, protected)
        fraction, settled = line_search(prune_at, self._feedback.goals[slot], forced, self._shares)
        alive = prune_at > fraction
        shrunk = proximal(scales, jnp.minimum(fraction, 1.0) * step_sizes)
        magnitudes = jnp.max(jnp.abs(scales), axis=0)
        return jnp.where(alive, shrunk, 0.0), ControllerState(
            step=state.step + 1,
            settled=jnp.where(settled, jnp.maximum(state.settled, slot + 1), state.settled),
            dead=~alive,
            died=jnp.where(alive | state.dead, state.died, state.step + 1),
            importance=importance,
            log_strength=log_strength,
            strength=strength,
            share=self._shares(alive),
            penalty=jnp.sum(weights * self._channels.counts(jnp.where(alive, magnitudes, 0.0))),
        )

    def _moment(self, state: ControllerState) -> Moment:
        passed = state.step / self._slot_length
        slot = jnp.minimum(passed.astype(jnp.int32), self._slots - 1)
        return Moment(
            slot,
            time=jnp.clip(passed - slot, 0.0, 1.0),
            unsettled=state.settled <= slot,
            forced=state.step >= self._deadlines[slot],
        )

    def _importance(self, state: ControllerState, evidence: Evidence) -> chex.Array:
        """``[units]``: what each is worth, averaged over the steps if the criterion has memory."""
        now = self._criterion.measure(self._channels, evidence)
        # The average starts at 0. A plain mean in the first steps keeps this from lowering it.
        keep = jnp.minimum(self._criterion.memory, state.step / (state.step + 1.0))
        return jnp.where(state.dead, state.importance, keep * state.importance + (1 - keep) * now)

    def _step_sizes(
        self,
        state: ControllerState,
        scales: chex.Array,
        weights: chex.Array,
        importance: chex.Array,
    ) -> chex.Array:
        """``[units]``: sizes of the proximal step, from the penalty's weights ``[groups]``."""
        # A unit is penalised for all the channels in it.
        of_groups = self._learning_rate(state.step) * weights * self._channels.unit_sizes
        return of_groups[self._channels.group_of] * self._speedups(state, scales, importance)

    def _speedups(
        self, state: ControllerState, scales: chex.Array, importance: chex.Array
    ) -> chex.Array:
        """``[units]``: the factor by which the step of each unit is enlarged or reduced.

        With this factor the units of a group die in the order of their worth. The worth is first
        converted to the size of the group's scales. If the criterion is the scale, the factor is 1.
        """
        alive, group = ~state.dead, self._channels.group_of
        mass = jnp.where(alive, jnp.sum(jnp.abs(scales), axis=0), 0.0)
        worth = jnp.where(alive, importance, 0.0)
        in_scales = self._by_group(mass) / jnp.maximum(self._by_group(worth), 1e-30)
        worth = worth * in_scales[group]
        return jnp.where(mass > 0, mass / jnp.maximum(worth, mass / _LARGEST_SPEEDUP), 1.0)

    def _by_group(self, values: chex.Array) -> chex.Array:
        """``[groups]``: the sum of ``values [units]`` over the units of each group."""
        return jnp.zeros(len(self._channels.groups)).at[self._channels.group_of].add(values)

    def _shares(self, alive: chex.Array) -> chex.Array:
        """``[constraints]``: the share of each full cost that is left with ``alive [units]``."""
        counts = self._channels.counts(alive)
        costs = [constraint.model.cost(counts) for constraint in self._budget.constraints]
        return jnp.stack(costs).astype(jnp.float32)

    def _weights(
        self,
        state: ControllerState,
        strength: chex.Array,
        active: chex.Array,
        forced: chex.Array,
    ) -> chex.Array:
        """``[groups]``: the penalty's weight on each |scale|, in units of the loss."""
        counts = self._channels.counts(~state.dead)
        coefficients = jnp.stack([m.coefficients(counts) for m in self._budget.resources])
        # With n channels alive in a group, each carries 1/n of what passes through the group. So
        # each is charged n times its own cost, which is the cost of the whole group. If each were
        # charged only its own cost, a narrow trunk between wide layers would die out: its channels
        # have the highest costs, and each one that dies makes the wide layers cheaper.
        coefficients = coefficients * counts * self._per_mean_width
        mean = jnp.sum(coefficients * self._unit_share, axis=1, keepdims=True)
        tempered = mean * (coefficients / mean) ** self._cost_exponent
        charges = jnp.einsum("krg,rg->kg", self._pressure, tempered)
        pressed = jnp.maximum(strength, 0.0) @ charges
        shielded = jnp.maximum(-strength, 0.0) @ charges
        # A shield lowers the weights of some groups relative to the others. The group with the
        # smallest ratio of shield to pressure keeps all of its weight.
        movable = active & (counts > self._least_channels) & (pressed > 0)
        ratio = shielded / jnp.maximum(pressed, 1e-30)
        lowest = jnp.min(jnp.where(movable, ratio, jnp.inf))
        ratio = ratio * jnp.minimum(1.0, 0.5 / jnp.maximum(lowest, 1e-12))
        lowest = jnp.minimum(lowest, 0.5)
        kept = jnp.maximum(1.0 - ratio, 0.0) / (1.0 - lowest)
        # When the goal has to be reached now, shielded channels die too, but last.
        return pressed * jnp.maximum(kept, jnp.where(forced, _LEAST_WEIGHT, 0.0))

    def _protected(self, state: ControllerState, importance: chex.Array) -> chex.Array:
        """``[units]`` bool: the most valuable units of each group, as many as it must keep."""
        units = jnp.arange(len(self._least_units))
        order = jnp.lexsort((-importance, state.dead, self._channels.group_of))
        rank = jnp.zeros_like(order).at[order].set(units - self._first_unit)
        return rank < self._least_units

    def _prune_at(
        self,
        state: ControllerState,
        scales: chex.Array,
        step_sizes: chex.Array,
        may_die: chex.Array,
        protected: chex.Array,
    ) -> chex.Array:
        """``[units]``: the fraction of this step after which each is dead; infinite if it never is.

        Dead units stay dead. In groups that may not change, living units stay alive.
        """
        excess = jnp.sum(jnp.maximum(jnp.abs(scales) - self._threshold, 0.0), axis=0)
        moves = step_sizes > 0
        fraction = jnp.where(moves, excess / jnp.where(moves, step_sizes, 1.0), jnp.inf)
        fraction = jnp.where((excess <= 0) & ~protected, 0.0, fraction)
        fraction = jnp.where(may_die, fraction, jnp.inf)
        return jnp.where(state.dead, -1.0, fraction)

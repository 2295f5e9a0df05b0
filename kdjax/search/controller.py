"""The controller: an optimiser whose proximal step thins the network down to its budget.

After the wrapped optimiser's update every channel's scales shrink by the penalty's proximal map.
The strength of each constraint's penalty is adapted at every step so that the cost follows a plan,
a straight line from the full cost to the target; a line search over the step that would cross the
target lands on it, to within one channel. All of this is inside the compiled step: the
strengths are part of the optimiser's state, and nothing is tuned by hand or on the host.

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

from kdjax.search.budget import EXACTNESS, Budget
from kdjax.search.criteria import CRITERIA, Criterion, Evidence
from kdjax.search.proximal import land, proximal
from kdjax.search.schedule import minimum_width

# How a constraint's strength reacts when its cost is above plan (as a share of the full cost): the
# part that acts at once, and the part that builds up over time (per length of the descent).
_PROPORTIONAL, _INTEGRAL, _LARGEST_LOG = 15.0, 100.0, 8.0
_LATE = 5.0  # How much faster the strength builds up once the plan is over.
_LEAD = 0.02  # How far ahead of plan a cost may be before its pressure ends,
_SHIELD = 5.0  # and how strong it may become in the opposite direction.
_ENOUGH = 0.6  # Share of the longest way left at which a shorter one begins to wait.
_LAST = 1e-3  # Share of the pressure that stays on a shielded group once the goal is forced.
_MOST_HASTE = 20.0  # Limit of the factor by which a unit may shrink faster than by its scale.


class ControllerState(NamedTuple):
    """What the controller remembers; all zeros before the first step.

    Attributes:
      step: scalar int32, steps done.
      settled: scalar int32, slots of the schedule whose structure is final.
      dead: ``[units]`` bool.
      died: ``[units]`` int32, the number of the step in which each died, from 1; 0 for the living.
      importance: ``[units]`` float32, by the criterion; of the dead when they were last alive.
      log_strength: ``[constraints]`` float32, the part of the strength that builds up.
      strength: ``[constraints]`` float32, as used in the last step.
      share: ``[constraints]`` float32, share of the full cost that is alive.
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
    """The wrapped optimiser's state and the controller's."""

    optimizer: Any
    controller: ControllerState


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """When the cost should be where.

    Attributes:
      steps: of the whole search.
      descent: of them, those over which the cost is led down, all slots together.
    """

    steps: int
    descent: int

    def slot_length(self, slots: int) -> float:
        """Steps in each slot of the schedule."""
        return self.descent / slots

    def deadlines(self, slots: int) -> np.ndarray:
        """``[slots]``: the step from which a slot's goal is enforced."""
        ends = np.ceil(self.slot_length(slots) * np.arange(1, slots + 1)).astype(np.int32) - 1
        # The last slot has time left after the descent; half of it is for training on.
        ends[-1] = max(0, self.descent + (self.steps - self.descent) // 2 - 1)
        return ends


def controlled(
    optimizer: optax.GradientTransformation,
    budget: Budget,
    plan: Plan,
    learning_rate: optax.Schedule,
    threshold: float,
    cost_exponent: float = 1.0,
    criterion: str = "scale",
) -> optax.GradientTransformation:
    """``optimizer`` followed by the proximal step that leads the network to its budget.

    Args:
      optimizer: moves all parameters first; it must not decay the scales.
      budget: the constraints; its channels' root says where the network is in the parameters.
      plan: when the cost should be where.
      learning_rate: step -> the optimiser's, which scales the proximal step too.
      threshold: a channel is dead where none of its |scale| is above it.
      cost_exponent: in (0, 1]. 1 pushes channels in proportion to the cost that hangs on their
        group; a smaller exponent leaves more to the loss.
      criterion: name of what says which channels of a group are worth most, one of
        :data:`kdjax.search.criteria.CRITERIA`.

    Returns:
      A transformation whose state is a :class:`SearchState`, all zeros but for the optimiser's
      own. Dead channels have scales of exactly 0.

    Raises:
      ValueError: if the threshold is not above 0, the exponent not in (0, 1], or the plan has no
        steps.
    """
    if not threshold > 0:
        raise ValueError(f"search.threshold is {threshold}: it must be above 0")
    if not 0 < plan.descent <= plan.steps:
        raise ValueError(f"a search of {plan.steps} steps cannot descend over {plan.descent}")
    if not 0 < cost_exponent <= 1:
        raise ValueError(f"search.cost_exponent is {cost_exponent}: it must be in (0, 1]")
    if criterion not in CRITERIA:
        raise ValueError(f"search.criterion is {criterion!r}: one of {', '.join(CRITERIA)}")
    move = _Mover(budget, plan, learning_rate, threshold, cost_exponent, CRITERIA[criterion])
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
        before, biases = channels.scales(params), channels.biases(params)
        after, moved = before + channels.scales(updates), biases + channels.biases(updates)
        scales, controller = move(state.controller, Evidence(after, params, gradients))
        # Scale and bias shrink by the same factor; for a dead channel both are 0.
        moved = moved * jnp.where(scales == after, 1.0, scales / jnp.where(after == 0, 1.0, after))
        moved = jnp.where(controller.dead, 0.0, moved)
        updates = channels.with_scales(updates, scales - before, moved - biases)
        return updates, SearchState(inner, controller)

    return optax.GradientTransformation(init, update)


class _Mover:
    """One step of the controller: ``(state, scales) -> (scales, state)``, traced."""

    def __init__(
        self,
        budget: Budget,
        plan: Plan,
        learning_rate: optax.Schedule,
        threshold: float,
        cost_exponent: float,
        criterion: Criterion,
    ):
        channels, slots = budget.channels, len(budget.slots)
        self._budget, self._channels = budget, channels
        self._learning_rate, self._threshold = learning_rate, threshold
        self._cost_exponent, self._criterion = cost_exponent, criterion
        self._slots, self._slot_length = slots, plan.slot_length(slots)
        self._deadlines = jnp.asarray(plan.deadlines(slots))
        self._active = jnp.asarray(budget.slots)
        self._ends = jnp.asarray(budget.waypoints, jnp.float32)
        self._starts = jnp.concatenate([jnp.ones_like(self._ends[:1]), self._ends[:-1]])
        # A cost of exactly the target meets it, however float32 rounds its sum.
        self._goals = jnp.asarray(budget.waypoints * (1 + 0.5 * EXACTNESS), jnp.float32)
        keep = np.array([minimum_width(group, budget.min_width) for group in channels.groups])
        self._keep_channels = keep
        self._keep = (keep // channels.unit_sizes).astype(int)[channels.group_of]
        first = np.cumsum([0] + [group.units for group in channels.groups[:-1]])
        self._first = first[channels.group_of]
        self._pressure = np.stack([constraint.pressure for constraint in budget.constraints])
        self._unit_share = np.bincount(channels.group_of) / len(channels.group_of)
        self._per_channel = 1.0 / np.mean([group.channels for group in channels.groups])
        self._base = _base_strengths(budget, self._slot_length) / float(learning_rate(0))

    def __call__(
        self, state: ControllerState, evidence: Evidence
    ) -> tuple[chex.Array, ControllerState]:
        scales = evidence.scales
        slot = jnp.minimum((state.step / self._slot_length).astype(jnp.int32), self._slots - 1)
        unsettled = state.settled <= slot
        forced = state.step >= self._deadlines[slot]
        strength, log_strength = self._strengths(state, slot, unsettled, forced)
        active = self._active[slot] & unsettled
        force = self._forces(state, strength, active, forced)
        magnitudes = jnp.max(jnp.abs(scales), axis=0)
        importance = self._importance(state, evidence)
        protected = self._protected(state, importance)
        # A unit is pushed for all the channels in it.
        amount = self._learning_rate(state.step) * force * active * self._channels.unit_sizes
        amount = amount[self._channels.group_of] * self._haste(state, scales, importance)
        amount = jnp.where(protected, 0.0, amount)
        deadly = self._deaths(state, scales, amount, active[self._channels.group_of], protected)
        portion, settled = land(deadly, self._goals[slot], forced, self._shares)
        alive = deadly > portion
        moved = proximal(scales, jnp.minimum(portion, 1.0) * amount)
        return jnp.where(alive, moved, 0.0), ControllerState(
            step=state.step + 1,
            settled=jnp.where(settled, jnp.maximum(state.settled, slot + 1), state.settled),
            dead=~alive,
            died=jnp.where(alive | state.dead, state.died, state.step + 1),
            importance=importance,
            log_strength=log_strength,
            strength=strength,
            share=self._shares(alive),
            penalty=jnp.sum(force * self._channels.counts(jnp.where(alive, magnitudes, 0.0))),
        )

    def _importance(self, state: ControllerState, evidence: Evidence) -> chex.Array:
        """``[units]``: what each is worth; the average of the steps so far where it remembers."""
        now = self._criterion.measure(self._channels, evidence)
        # In the first steps the average is a plain mean; else its start at 0 would pull it down.
        keep = jnp.minimum(self._criterion.memory, state.step / (state.step + 1.0))
        return jnp.where(state.dead, state.importance, keep * state.importance + (1 - keep) * now)

    def _haste(
        self, state: ControllerState, scales: chex.Array, importance: chex.Array
    ) -> chex.Array:
        """``[units]``: how much faster than the others of its group a unit is made to shrink.

        With this factor the units of a group die in the order of their worth. The worth is first
        converted to the size of the group's scales; if the criterion is the scale, the factor is 1.
        """
        alive, group = ~state.dead, self._channels.group_of
        mass = jnp.where(alive, jnp.sum(jnp.abs(scales), axis=0), 0.0)
        worth = jnp.where(alive, importance, 0.0)
        in_scales = self._by_group(mass) / jnp.maximum(self._by_group(worth), 1e-30)
        worth = worth * in_scales[group]
        return jnp.where(mass > 0, mass / jnp.maximum(worth, mass / _MOST_HASTE), 1.0)

    def _by_group(self, values: chex.Array) -> chex.Array:
        """``[groups]``: sums over their units."""
        return jnp.zeros(len(self._channels.groups)).at[self._channels.group_of].add(values)

    def _shares(self, alive: chex.Array) -> chex.Array:
        """``[constraints]``: share of its full cost that each has with ``alive [units]``."""
        counts = self._channels.counts(alive)
        costs = [constraint.model.cost(counts) for constraint in self._budget.constraints]
        return jnp.stack(costs).astype(jnp.float32)

    def _strengths(
        self, state: ControllerState, slot: chex.Array, unsettled: chex.Array, forced: chex.Array
    ) -> tuple[chex.Array, chex.Array]:
        """``[constraints]``: how strongly each is pressed, and the part of it that builds up."""
        start, end = self._starts[slot], self._ends[slot]
        share = self._shares(~state.dead)
        time = jnp.clip(state.step / self._slot_length - slot, 0.0, 1.0)
        behind = share - (start + (end - start) * time)
        unmet = unsettled & (share > self._goals[slot])
        gain = jnp.where(time < 1.0, 1.0, _LATE) * _INTEGRAL / self._slot_length
        log_strength = state.log_strength + behind * unmet * gain
        log_strength = jnp.clip(log_strength, -_LARGEST_LOG, _LARGEST_LOG)
        answer = jnp.clip(log_strength + _PROPORTIONAL * behind, -_LARGEST_LOG, _LARGEST_LOG)
        # A cost that is ahead of its plan, or of the other costs, stops pressing. If it is still
        # further ahead, it shields its channels from the pressure of the other costs. So several
        # targets are met together, and none is overshot to meet another.
        lead = jnp.minimum(1.0 + behind / _LEAD, self._lead_of_others(slot, share))
        lead = jnp.clip(lead, -_SHIELD, 1.0)
        lead = jnp.where(forced & unmet, 1.0, lead)
        push = jnp.exp(answer) * jnp.maximum(lead, 0.0) * unmet
        return self._base * (push + jnp.max(push) * jnp.minimum(lead, 0.0)), log_strength

    def _lead_of_others(self, slot: chex.Array, share: chex.Array) -> chex.Array:
        """``[constraints]``: 1 where a cost may be pressed, down to below 0 where it is ahead.

        Each cost still has to come down by some factor, whose logarithm is the way left. What is
        done for the cost with the longest way brings the others down too, by about the same
        factor at most. So a cost with a much shorter way waits.
        """
        start, end = self._starts[slot], self._ends[slot]
        left = jnp.log(jnp.maximum(share, 1e-6) / end)
        longest = jnp.maximum(jnp.max(left), EXACTNESS)
        lead = 1.0 + (left / longest - _ENOUGH) / (1.0 - _ENOUGH) * 2.0
        return jnp.where(start > end, lead, 1.0)

    def _forces(
        self,
        state: ControllerState,
        strength: chex.Array,
        active: chex.Array,
        forced: chex.Array,
    ) -> chex.Array:
        """``[groups]``: what each channel's scale is pushed with, in units of the loss."""
        counts = self._channels.counts(~state.dead)
        coefficients = jnp.stack([m.coefficients(counts) for m in self._budget.resources])
        # With n channels alive in a group, each carries 1/n of what passes the group. So each is
        # charged n times its own cost, which is the cost of the whole group. If a channel were
        # charged its own cost alone, a narrow trunk between wide layers would die out: each of its
        # channels costs the most, and with every one that dies the wide layers cost less.
        coefficients = coefficients * counts * self._per_channel
        mean = jnp.sum(coefficients * self._unit_share, axis=1, keepdims=True)
        tempered = mean * (coefficients / mean) ** self._cost_exponent
        felt = jnp.einsum("krg,rg->kg", self._pressure, tempered)
        pushed = jnp.maximum(strength, 0.0) @ felt
        shielded = jnp.maximum(-strength, 0.0) @ felt
        # A shield lowers the pressure on some groups relative to the others. The group with the
        # smallest ratio of shield to pressure keeps all of its pressure.
        movable = active & (counts > self._keep_channels) & (pushed > 0)
        ratio = shielded / jnp.maximum(pushed, 1e-30)
        lowest = jnp.min(jnp.where(movable, ratio, jnp.inf))
        ratio = ratio * jnp.minimum(1.0, 0.5 / jnp.maximum(lowest, 1e-12))
        lowest = jnp.minimum(lowest, 0.5)
        left = jnp.maximum(1.0 - ratio, 0.0) / (1.0 - lowest)
        # When the goal has to be reached now, shielded channels die too, but last.
        return pushed * jnp.maximum(left, jnp.where(forced, _LAST, 0.0))

    def _protected(self, state: ControllerState, importance: chex.Array) -> chex.Array:
        """``[units]`` bool: the most valuable units of each group, as many as it must keep."""
        units = jnp.arange(len(self._keep))
        order = jnp.lexsort((-importance, state.dead, self._channels.group_of))
        rank = jnp.zeros_like(order).at[order].set(units - self._first)
        return rank < self._keep

    def _deaths(
        self,
        state: ControllerState,
        scales: chex.Array,
        amount: chex.Array,
        active: chex.Array,
        protected: chex.Array,
    ) -> chex.Array:
        """``[units]``: the portion of this step's amount at which each dies.

        Dead units stay dead. In groups that may not change, living units stay alive.
        """
        excess = jnp.sum(jnp.maximum(jnp.abs(scales) - self._threshold, 0.0), axis=0)
        deadly = jnp.where(amount > 0, excess / jnp.where(amount > 0, amount, 1.0), jnp.inf)
        deadly = jnp.where((excess <= 0) & ~protected, 0.0, deadly)
        deadly = jnp.where(active, deadly, jnp.inf)
        return jnp.where(state.dead, -1.0, deadly)


def _base_strengths(budget: Budget, steps: float) -> np.ndarray:
    """``[constraints]``: strengths at which half of a scale of 1 is gone within a slot.

    At a learning rate of 1. The controller starts from the right order of magnitude whatever the
    network and the length of the search are.
    """
    groups = budget.channels.groups
    full = np.array([group.channels for group in groups], np.float32)
    coefficients = np.stack([np.asarray(model.coefficients(full)) for model in budget.resources])
    coefficients = coefficients * full / full.mean()
    pressure = np.stack([constraint.pressure for constraint in budget.constraints])
    felt = np.einsum("krg,rg->kg", pressure, coefficients) * budget.channels.unit_sizes
    weights = np.array([group.units for group in groups], float)
    mean = (felt * weights).sum(1) / ((felt > 0) * weights).sum(1)
    return np.asarray(0.5 / (mean * steps), np.float32)

"""How strongly each channel group is pressed: strengths that follow the plan of each cost.

Every constraint has a strength that grows while its cost is above plan. A constraint that is ahead
of the others shields the channels that it is made of, so that all targets are met at about the same
time. What a strength means to a group is the cost that hangs on it.

References:
  Gordon et al., *MorphNet*, CVPR 2018, section 3 (the penalty).
"""

import chex
import jax.numpy as jnp
import numpy as np

from kdjax.search.budget import EXACTNESS, Budget, minimum_width

# How a constraint's strength answers to a cost above plan, in shares of the full cost: at once,
# and for as long as it lasts (per length of the descent).
_PROPORTIONAL, _INTEGRAL, _LARGEST_LOG = 15.0, 100.0, 8.0
_LATE = 5.0  # How much faster the strength builds up once the plan is over.
_LEAD = 0.02  # How far ahead of plan a cost may be before its pressure ends,
_SHIELD = 5.0  # and how strong it may become in the opposite direction.
_WAITS = 0.4  # Share of the longest way left at which a cost with a shorter one waits.
_LAST = 1e-3  # Share of the pressure that no shield takes off a group once the goal is forced.


class Pressure:
    """Strengths and forces of a budget's constraints, traced.

    Attributes:
      goals: ``[slots, constraints]`` shares to reach.
    """

    def __init__(
        self, budget: Budget, slot_length: float, learning_rate: float, cost_exponent: float
    ):
        """Prepares the constants.

        Args:
          budget: the constraints.
          slot_length: steps in each slot of the schedule.
          learning_rate: of the first step.
          cost_exponent: see :func:`kdjax.search.controlled`.
        """
        channels = budget.channels
        self._budget, self._channels = budget, channels
        self._slot_length, self._cost_exponent = slot_length, cost_exponent
        self._ends = jnp.asarray(budget.waypoints, jnp.float32)
        self._starts = jnp.concatenate([jnp.ones_like(self._ends[:1]), self._ends[:-1]])
        # A cost of exactly the target meets it, however float32 rounds its sum.
        self.goals = jnp.asarray(budget.waypoints * (1 + 0.5 * EXACTNESS), jnp.float32)
        self._keep = np.array([minimum_width(g, budget.min_width) for g in channels.groups])
        self._pressure = np.stack([constraint.pressure for constraint in budget.constraints])
        self._unit_share = np.bincount(channels.group_of) / len(channels.group_of)
        self._per_channel = 1.0 / np.mean([group.channels for group in channels.groups])
        self._base = _base_strengths(budget, slot_length) / learning_rate

    def shares(self, alive: chex.Array) -> chex.Array:
        """``[constraints]``: share of its full cost that each has with ``alive [units]``."""
        counts = self._channels.counts(alive)
        costs = [constraint.model.cost(counts) for constraint in self._budget.constraints]
        return jnp.stack(costs).astype(jnp.float32)

    def strengths(
        self,
        step: chex.Array,
        dead: chex.Array,
        log_strength: chex.Array,
        slot: chex.Array,
        unsettled: chex.Array,
        forced: chex.Array,
    ) -> tuple[chex.Array, chex.Array]:
        """How strongly each constraint is pressed.

        Args:
          step: scalar int32, steps done.
          dead: ``[units]`` bool.
          log_strength: ``[constraints]``, the part of the strength that builds up, as it was.
          slot: scalar int32, of the schedule.
          unsettled: whether the slot's structure may still change.
          forced: whether its goal has to be reached now.

        Returns:
          ``(strength, log_strength)``, ``[constraints]`` each; a negative strength is a shield.
        """
        start, end = self._starts[slot], self._ends[slot]
        share = self.shares(~dead)
        time = jnp.clip(step / self._slot_length - slot, 0.0, 1.0)
        behind = share - (start + (end - start) * time)
        unmet = unsettled & (share > self.goals[slot])
        gain = jnp.where(time < 1.0, 1.0, _LATE) * _INTEGRAL / self._slot_length
        log_strength = log_strength + behind * unmet * gain
        log_strength = jnp.clip(log_strength, -_LARGEST_LOG, _LARGEST_LOG)
        answer = jnp.clip(log_strength + _PROPORTIONAL * behind, -_LARGEST_LOG, _LARGEST_LOG)
        # A cost that is ahead, of its plan or of the other costs, ends its own pressure, and
        # further ahead it shields the channels that it is made of from the pressure of the others:
        # several targets are met together, not each at the expense of the next.
        lead = jnp.minimum(1.0 + behind / _LEAD, self._lead_of_others(slot, share))
        lead = jnp.clip(lead, -_SHIELD, 1.0)
        lead = jnp.where(forced & unmet, 1.0, lead)
        push = jnp.exp(answer) * jnp.maximum(lead, 0.0) * unmet
        return self._base * (push + jnp.max(push) * jnp.minimum(lead, 0.0)), log_strength

    def _lead_of_others(self, slot: chex.Array, share: chex.Array) -> chex.Array:
        """``[constraints]``: 1 where a cost may be pressed, down to below 0 where it is ahead.

        What is left of its way, as the logarithm of the factor that it still has to come down by,
        is compared with the longest. Whatever is done for that one brings the others down too,
        though by a smaller factor: what has little left to go in comparison has to wait.
        """
        start, end = self._starts[slot], self._ends[slot]
        left = jnp.log(jnp.maximum(share, 1e-6) / end)
        longest = jnp.maximum(jnp.max(left), EXACTNESS)
        return jnp.where(start > end, 2.0 * (left / longest / _WAITS - 1.0), 1.0)

    def forces(
        self, dead: chex.Array, strength: chex.Array, active: chex.Array, forced: chex.Array
    ) -> chex.Array:
        """``[groups]``: what each channel's scale is pushed with, in units of the loss.

        Args:
          dead: ``[units]`` bool.
          strength: ``[constraints]``, of :meth:`strengths`.
          active: ``[groups]`` bool, which may change.
          forced: whether the goal has to be reached now.
        """
        counts = self._channels.counts(~dead)
        coefficients = jnp.stack([m.coefficients(counts) for m in self._budget.resources])
        # A channel is worth its share of what passes its group: with n alive, 1/n of it. What it
        # is charged for that is n times what it costs, all that hangs on the group. By its own
        # cost alone a narrow trunk between wide layers dies out: each of its channels costs most,
        # and the fewer there are, the less do the wide layers cost.
        coefficients = coefficients * counts * self._per_channel
        mean = jnp.sum(coefficients * self._unit_share, axis=1, keepdims=True)
        tempered = mean * (coefficients / mean) ** self._cost_exponent
        felt = jnp.einsum("krg,rg->kg", self._pressure, tempered)
        pushed = jnp.maximum(strength, 0.0) @ felt
        shielded = jnp.maximum(-strength, 0.0) @ felt
        # A shield moves pressure, it does not take it away: the groups that have most of what is
        # pressed for what is shielded keep all of theirs.
        movable = active & (counts > self._keep) & (pushed > 0)
        ratio = shielded / jnp.maximum(pushed, 1e-30)
        lowest = jnp.min(jnp.where(movable, ratio, jnp.inf))
        ratio = ratio * jnp.minimum(1.0, 0.5 / jnp.maximum(lowest, 1e-12))
        lowest = jnp.minimum(lowest, 0.5)
        left = jnp.maximum(1.0 - ratio, 0.0) / (1.0 - lowest)
        # Where the goal has to be reached now, what is shielded goes too, but last.
        return pushed * jnp.maximum(left, jnp.where(forced, _LAST, 0.0))


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

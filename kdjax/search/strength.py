"""How strongly each constraint presses on its channels: feedback that keeps its cost on a plan."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from kdjax.search.budget import EXACTNESS, Budget

# How the logarithm of a strength reacts to a cost above plan (a share of the full cost): the part
# that acts at once, and the part that builds up over a slot of the schedule.
_PROPORTIONAL_GAIN, _INTEGRAL_GAIN, _LARGEST_LOG = 15.0, 100.0, 8.0
_LATE_FACTOR = 5.0  # How much faster the strength builds up once the plan is over.
_MARGIN = 0.02  # How far ahead of plan a cost may be before its penalty stops.
_LARGEST_SHIELD = 5.0  # How strongly it may then shield its channels, relative to the others.
_WAITS_BELOW = 0.6  # A cost waits while its way left is below this share of the longest one.


class Moment(NamedTuple):
    """Where a step is in the plan. All are scalars.

    Attributes:
      slot: int32, of the schedule.
      time: float32, share of the slot that has passed, at most 1.
      unsettled: bool, whether the structure of the slot can still change.
      forced: bool, whether the slot's goal must be reached now.
    """

    slot: chex.Array
    time: chex.Array
    unsettled: chex.Array
    forced: chex.Array


class Feedback:
    """From costs to strengths, once in every step, traced.

    Attributes:
      goals: ``[slots, constraints]`` float32, shares of the full cost to reach by the end of each
        slot.
    """

    def __init__(self, budget: Budget, slot_length: float, learning_rate: float):
        self._slot_length = slot_length
        self._ends = jnp.asarray(budget.waypoints, jnp.float32)
        self._starts = jnp.concatenate([jnp.ones_like(self._ends[:1]), self._ends[:-1]])
        # A cost of exactly the target meets it, however float32 rounds its sum.
        self.goals = jnp.asarray(budget.waypoints * (1 + 0.5 * EXACTNESS), jnp.float32)
        self._base = _base_strengths(budget, slot_length) / learning_rate

    def __call__(
        self, log_strength: chex.Array, share: chex.Array, moment: Moment
    ) -> tuple[chex.Array, chex.Array]:
        """``(strength, log_strength)`` of the step, ``[constraints]`` each.

        Args:
          log_strength: ``[constraints]``, what has built up in the steps before.
          share: ``[constraints]``, shares of the full cost that are alive.
          moment: of the step.

        Returns:
          The strengths, below 0 where a constraint shields its channels from the others; and what
          has built up now.
        """
        start, end = self._starts[moment.slot], self._ends[moment.slot]
        behind = share - (start + (end - start) * moment.time)
        unmet = moment.unsettled & (share > self.goals[moment.slot])
        gain = jnp.where(moment.time < 1.0, 1.0, _LATE_FACTOR) * _INTEGRAL_GAIN / self._slot_length
        log_strength = log_strength + behind * unmet * gain
        log_strength = jnp.clip(log_strength, -_LARGEST_LOG, _LARGEST_LOG)
        response = log_strength + _PROPORTIONAL_GAIN * behind
        response = jnp.clip(response, -_LARGEST_LOG, _LARGEST_LOG)
        # A cost that is ahead of its plan, or of the other costs, stops pressing. If it is still
        # further ahead, it shields its channels from the pressure of the other costs. So several
        # targets are met together, and none is overshot to meet another.
        part = jnp.minimum(1.0 + behind / _MARGIN, self._part_by_way_left(share, start, end))
        part = jnp.clip(part, -_LARGEST_SHIELD, 1.0)
        part = jnp.where(moment.forced & unmet, 1.0, part)
        pressing = jnp.exp(response) * jnp.maximum(part, 0.0) * unmet
        shielding = jnp.max(pressing) * jnp.minimum(part, 0.0)
        return self._base * (pressing + shielding), log_strength

    def _part_by_way_left(
        self, share: chex.Array, start: chex.Array, end: chex.Array
    ) -> chex.Array:
        """``[constraints]``: 1 where a cost may press, less where it waits, below 0 to shield.

        Each cost still has to come down by some factor, whose logarithm is the way left. Lowering
        the cost that is farthest from its target lowers the others too, by about the same factor
        at most. So a cost that is much closer to its target waits.
        """
        left = jnp.log(jnp.maximum(share, 1e-6) / end)
        longest = jnp.maximum(jnp.max(left), EXACTNESS)
        part = 1.0 + (left / longest - _WAITS_BELOW) / (1.0 - _WAITS_BELOW) * 2.0
        return jnp.where(start > end, part, 1.0)


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

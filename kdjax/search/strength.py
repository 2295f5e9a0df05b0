"""Feedback that sets how strongly each constraint presses, so that its cost follows a plan."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from kdjax.search.budget import EXACTNESS, Budget

# How the logarithm of a strength reacts to a cost above plan (as a share of the full cost). The
# proportional part acts at once, the integral part builds up over a slot of the schedule.
_PROPORTIONAL_GAIN, _INTEGRAL_GAIN, _LARGEST_LOG = 15.0, 100.0, 8.0
_LATE_FACTOR = 5.0  # How much faster the strength builds up once the plan is over.
_MARGIN = 0.02  # How far ahead of plan a cost may be before its penalty stops.
_LARGEST_SHIELD = 5.0  # Largest strength of a shield, relative to the largest pressure.
_WAITS_BELOW = 0.6  # A cost waits while its way left is below this share of the longest way left.


class Moment(NamedTuple):
    """The place of a step in the plan. All fields are scalars.

    Attributes:
      slot: int32, index of the slot in the schedule.
      time: float32, share of the slot that has passed, at most 1.
      unsettled: bool, whether the structure of the slot can still change.
      forced: bool, whether the slot's goal must be reached now.
    """

    slot: chex.Array
    time: chex.Array
    unsettled: chex.Array
    forced: chex.Array


class Feedback:
    """Computes strengths from costs once in every step, traced by JAX.

    Attributes:
      goals: ``[slots, constraints]`` float32, shares of the full cost to reach by the end of each
        slot.
    """

    def __init__(self, budget: Budget, slot_length: float, learning_rate: float):
        self._slot_length = slot_length
        self._ends = jnp.asarray(budget.waypoints, jnp.float32)
        self._starts = jnp.concatenate([jnp.ones_like(self._ends[:1]), self._ends[:-1]])
        # With this margin a cost equal to the target meets it, even if float32 rounds the sum up.
        self.goals = jnp.asarray(budget.waypoints * (1 + 0.5 * EXACTNESS), jnp.float32)
        self._base = _base_strengths(budget, slot_length) / learning_rate

    def __call__(
        self, log_strength: chex.Array, share: chex.Array, moment: Moment
    ) -> tuple[chex.Array, chex.Array]:
        """``(strength, log_strength)`` of the step, ``[constraints]`` each.

        Args:
          log_strength: ``[constraints]``, the integral part that the earlier steps built up.
          share: ``[constraints]``, shares of the full cost that are left.
          moment: the place of the step in the plan.

        Returns:
          The strengths, below 0 where a constraint shields its channels from the others, and the
          integral part after this step.
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

        Each cost still has to come down by some factor. The logarithm of this factor is its way
        left. Lowering the cost that is farthest from its target lowers the others too, by about the
        same factor at most. So a cost that is much closer to its target waits.
        """
        left = jnp.log(jnp.maximum(share, 1e-6) / end)
        longest = jnp.maximum(jnp.max(left), EXACTNESS)
        part = 1.0 + (left / longest - _WAITS_BELOW) / (1.0 - _WAITS_BELOW) * 2.0
        return jnp.where(start > end, part, 1.0)


def _base_strengths(budget: Budget, steps: float) -> np.ndarray:
    """``[constraints]``: strengths that reduce a scale of 1 by half within a slot.

    They hold for a learning rate of 1. With them the controller starts at the right order of
    magnitude for any network and any length of the search.
    """
    groups = budget.channels.groups
    full = np.array([group.channels for group in groups], np.float32)
    coefficients = np.stack([np.asarray(model.coefficients(full)) for model in budget.resources])
    coefficients = coefficients * full / full.mean()
    pressure = np.stack([constraint.pressure for constraint in budget.constraints])
    charges = np.einsum("krg,rg->kg", pressure, coefficients) * budget.channels.unit_sizes
    weights = np.array([group.units for group in groups], float)
    mean = (charges * weights).sum(1) / ((charges > 0) * weights).sum(1)
    return np.asarray(0.5 / (mean * steps), np.float32)

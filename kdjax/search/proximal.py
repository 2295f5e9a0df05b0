"""The step that shrinks scales, and a search for the smallest fraction of it that meets a goal."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np


def proximal(scales: chex.Array, step_size: chex.Array) -> chex.Array:
    """The proximal map of ``step_size * max_k |scales[k]|``, for each unit.

    The largest magnitudes of a unit come down to a common level; the sum of their decreases is
    ``step_size``. If ``step_size`` exceeds the sum of all magnitudes, all become 0. For one
    contributor the map is soft thresholding.

    Args:
      scales: ``[contributors, units]`` floats.
      step_size: ``[units]``, none negative.

    Returns:
      ``[contributors, units]``.
    """
    magnitudes = jnp.abs(scales)
    if scales.shape[0] == 1:
        level = magnitudes[0] - step_size
    else:
        ordered = -jnp.sort(-magnitudes, axis=0)
        numbers = jnp.arange(1, scales.shape[0] + 1, dtype=scales.dtype)[:, None]
        level = jnp.max((jnp.cumsum(ordered, axis=0) - step_size) / numbers, axis=0)
    return jnp.sign(scales) * jnp.minimum(magnitudes, jnp.maximum(level, 0.0))


def line_search(
    prune_at: chex.Array,
    goal: chex.Array,
    forced: chex.Array,
    shares: Callable[[chex.Array], chex.Array],
) -> tuple[chex.Array, chex.Array]:
    """The smallest fraction of a step after which the goal is met.

    Args:
      prune_at: ``[units]``: the fraction of the step after which each unit is dead; below 0 for
        units that are dead already, infinite for units that stay.
      goal: ``[constraints]`` shares to reach.
      forced: scalar bool, whether the goal must be reached now, however long the step is.
      shares: ``alive [units] -> [constraints]``, the share of each full cost that is left.

    Returns:
      ``(fraction, settled)``, scalars. ``fraction`` is 1 for the whole step. It is less if a
      constraint is met earlier, 0 if all are met already, and above 1 only if ``forced``.
      ``settled`` says whether all constraints are met after that fraction.
    """
    met = shares(prune_at > 0.0) <= goal

    def reached(fraction: chex.Array) -> chex.Array:
        """Whether a constraint is newly met; if ``forced``, whether all constraints are met."""
        now = shares(prune_at > fraction) <= goal
        return jnp.where(forced, jnp.all(now), jnp.any(now & ~met))

    candidates = jnp.sort(jnp.where(jnp.isfinite(prune_at), prune_at, -1.0))
    longest = jnp.where(forced, candidates[-1], 1.0)

    def shortest() -> chex.Array:
        """The smallest fraction that reaches the goal, by bisection over ``candidates``."""
        low, high = jnp.int32(0), jnp.int32(len(candidates) - 1)

        def halve(_: int, bounds: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
            low, high = bounds
            middle = (low + high) // 2
            there = reached(candidates[middle])
            return jnp.where(there, low, middle + 1), jnp.where(there, middle, high)

        # Once low equals high, another round does not change high.
        rounds = int(np.ceil(np.log2(len(candidates)))) + 1
        _, high = jax.lax.fori_loop(0, rounds, halve, (low, high))
        return candidates[high]

    crosses = reached(longest) & ~jnp.all(met)
    fraction = jnp.where(jnp.all(met), 0.0, 1.0)
    fraction = jax.lax.cond(crosses, shortest, lambda: fraction)
    return fraction, jnp.all(shares(prune_at > fraction) <= goal)

"""The step that shrinks scales, and the portion of it after which a goal is met exactly."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np


def proximal(scales: chex.Array, amount: chex.Array) -> chex.Array:
    """The proximal map of ``amount * max_k |scales[k]|``, for each unit.

    The largest magnitudes come down to a common level, all together by ``amount``; where that
    exceeds their sum, all become 0. For one contributor it is soft thresholding.

    Args:
      scales: ``[contributors, units]`` floats.
      amount: ``[units]``, none negative.

    Returns:
      ``[contributors, units]``.
    """
    magnitudes = jnp.abs(scales)
    if scales.shape[0] == 1:
        level = magnitudes[0] - amount
    else:
        ordered = -jnp.sort(-magnitudes, axis=0)
        numbers = jnp.arange(1, scales.shape[0] + 1, dtype=scales.dtype)[:, None]
        level = jnp.max((jnp.cumsum(ordered, axis=0) - amount) / numbers, axis=0)
    return jnp.sign(scales) * jnp.minimum(magnitudes, jnp.maximum(level, 0.0))


def land(
    deadly: chex.Array,
    goal: chex.Array,
    forced: chex.Array,
    shares: Callable[[chex.Array], chex.Array],
) -> tuple[chex.Array, chex.Array]:
    """How far to go in this step.

    Args:
      deadly: ``[units]``: portion of the step at which each unit dies.
      goal: ``[constraints]`` shares to reach.
      forced: whether the goal must be reached now, at whatever strength.
      shares: ``alive [units] -> [constraints]``.

    Returns:
      ``(portion, settled)``: 1 for the whole step; less where a constraint that was not met would
      be met earlier, so that it is met by no more than it takes; more than 1 only where ``forced``.
      Settled once all constraints are met.
    """
    met = shares(deadly > 0.0) <= goal

    def happens(portion: chex.Array) -> chex.Array:
        """Whether a constraint is newly met, or where forced all are."""
        now = shares(deadly > portion) <= goal
        return jnp.where(forced, jnp.all(now), jnp.any(now & ~met))

    candidates = jnp.sort(jnp.where(jnp.isfinite(deadly), deadly, -1.0))
    most = jnp.where(forced, candidates[-1], 1.0)

    def search() -> chex.Array:
        """The smallest portion at which it happens: bisection over the deaths in order."""
        low, high = jnp.int32(0), jnp.int32(len(candidates) - 1)

        def halve(_: int, bounds: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
            low, high = bounds
            middle = (low + high) // 2
            there = happens(candidates[middle])
            return jnp.where(there, low, middle + 1), jnp.where(there, middle, high)

        # Once low equals high, another round does not change high.
        rounds = int(np.ceil(np.log2(len(candidates)))) + 1
        _, high = jax.lax.fori_loop(0, rounds, halve, (low, high))
        return candidates[high]

    crosses = happens(most) & ~jnp.all(met)
    portion = jnp.where(jnp.all(met), 0.0, 1.0)
    portion = jax.lax.cond(crosses, search, lambda: portion)
    return portion, jnp.all(shares(deadly > portion) <= goal)

"""Who teaches whom in an online ensemble: the rule's logits, and what it remembers."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import losses

# What a rule carries from step to step, kept in checkpoints.
Memory = dict[str, Any]

_DECAY = 0.99  # of the running losses


def initial_memory(rule: str, students: int) -> Memory:
    """What a rule remembers before the first step, on the host.

    Args:
      rule: ``config.ensemble.rule``.
      students: how many there are.
    """
    return {"losses": np.ones(students, np.float32)} if rule == "by_accuracy" else {}


def remember(memory: Memory, metrics: Mapping[str, tuple[chex.Array, chex.Array]]) -> Memory:
    """The rule's memory after a step, from the metrics of all devices; the rest is as it was."""
    if "losses" not in memory:
        return memory
    total, count = metrics["hard"]
    found = total / jnp.maximum(count, 1.0)
    found = jnp.where(jnp.isfinite(found), found, memory["losses"])
    return {**memory, "losses": _DECAY * memory["losses"] + (1 - _DECAY) * found}


def teacher_logits(
    logits: chex.Array, labels: chex.Array, memory: Memory, config: ml_collections.ConfigDict
) -> chex.Array:
    """What each student is taught by ``config.ensemble.rule``; no gradient flows back.

    Args:
      logits: ``[students, batch, classes]``.
      labels: ``[batch]`` integers.
      memory: of the rule.
      config: its ``ensemble`` and ``teacher_weights``.

    Returns:
      ``[students or 1, teachers, batch, classes]``.
    """
    logits = jax.lax.stop_gradient(logits)
    rules: dict[str, Callable[[], chex.Array]] = {
        "average": lambda: losses.ensemble_logits(logits, tuple(config.teacher_weights) or None),
        "by_accuracy": lambda: jnp.tensordot(
            losses.accuracy_weights(memory["losses"]), logits, axes=1
        ),
        "leave_one_out": lambda: losses.leave_one_out_logits(logits),
        "wider_only": lambda: losses.wider_only_logits(logits),
        "pairwise": lambda: losses.pairwise_logits(logits),
        "best": lambda: losses.best_logits(logits, labels),
        "min_logit": lambda: losses.min_margin_logits(logits, labels),
    }
    found = rules[config.ensemble.rule]()
    if found.ndim == 2:  # One teacher for all.
        return found[None, None]
    return found if found.ndim == 4 else found[:, None]

"""Who teaches whom in an online ensemble: the rule's logits, what it trains and remembers."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from kdjax import losses
from kdjax.models.execution import Mode
from kdjax.models.normalization import BatchNorm

# What a rule carries from step to step, kept in checkpoints.
Memory = dict[str, Any]

_DECAY = 0.99  # of the running losses

# Of rule ema: the averaged copies of all parameters, in the memory.
COPIES = "copies"


class Gate(nn.Module):
    """Shares of the students in their teacher, for each example.

    In the paper a gate reads the output of the layers that all branches share. Here these are only
    a layer or two, so it reads the last map of the pivot, the widest student.

    Attributes:
      students: how many there are.

    References:
      Lan, Zhu, Gong, *Knowledge Distillation by On-the-Fly Native Ensemble*, NeurIPS 2018, section
      3.1; layers as in the released code.
    """

    students: int

    @nn.compact
    def __call__(self, pooled: chex.Array, mode: Mode) -> tuple[chex.Array]:
        """``[batch, students]`` float32, each row summing to 1.

        Args:
          pooled: ``[batch, channels]`` float32.
          mode: how to compute.
        """
        x = nn.Dense(self.students, name="dense")(pooled)
        x = BatchNorm(mode.axis_name, name="norm")(x, mode.train, mode.mask)
        return (jax.nn.softmax(nn.relu(x)),)


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


def averaged(copies: Any, params: Any, step: chex.Array, decay: float) -> Any:
    """The copies of rule ema after a step; after the first one the parameters themselves.

    Args:
      copies: before the step.
      params: after the step.
      step: its number, from 0.
      decay: share of the copies that a step keeps, at most; early ones keep ``1 - 1 / (step + 1)``.

    References:
      Wu, Gong, *Peer Collaborative Learning for Online Knowledge Distillation*, AAAI 2021, section
      3.3; Tarvainen, Valpola, *Mean teachers*, NeurIPS 2017.
    """
    kept = jnp.minimum(1.0 - 1.0 / (step + 1.0), decay)
    return optax.incremental_update(params, copies, 1.0 - kept)


def teacher_logits(
    logits: chex.Array,
    labels: chex.Array,
    memory: Memory,
    config: ml_collections.ConfigDict,
    *,
    shares: chex.Array | None = None,
    copies: chex.Array | None = None,
) -> chex.Array:
    """What each student is taught by ``config.ensemble.rule``; no gradient flows back.

    Args:
      logits: ``[students, batch, classes]``.
      labels: ``[batch]`` integers, or ``[batch, classes]`` distributions; rule ``min_logit`` takes
        the likeliest class.
      memory: of the rule.
      config: its ``ensemble`` and ``teacher_weights``.
      shares: ``[batch, students]`` of the :class:`Gate`, for rule ``gate``.
      copies: ``[students, batch, classes]``, logits of the averaged copies, for rule ``ema``.

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
        "min_logit": lambda: losses.min_margin_logits(logits, losses.likeliest_class(labels)),
        "gate": lambda: losses.gated_logits(logits, jax.lax.stop_gradient(shares)),
        "ema": lambda: losses.leave_one_out_logits(jax.lax.stop_gradient(copies)),
    }
    found = rules[config.ensemble.rule]()
    if found.ndim == 2:  # One teacher for all.
        return found[None, None]
    return found if found.ndim == 4 else found[:, None]

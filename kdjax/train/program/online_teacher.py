"""Teacher rules of an online ensemble: their logits, and what they train and remember."""

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
from kdjax.config import Rule
from kdjax.models.execution import Mode
from kdjax.models.normalization import BatchNorm

# What a rule remembers from step to step; it is kept in checkpoints.
Memory = dict[str, Any]

_DECAY = 0.99  # of the running losses

# The key in the memory of the averaged copies of all parameters, for rule ema.
COPIES = "copies"


class Gate(nn.Module):
    """Computes each student's share in the teacher's logits, for each example.

    In the paper the gate reads the output of the layers that all branches share. Here only a layer
    or two are shared, so the gate reads the last map of the pivot, the widest student.

    Attributes:
      students: how many there are.

    References:
      Lan, Zhu, Gong, *Knowledge Distillation by On-the-Fly Native Ensemble*, NeurIPS 2018, section
      3.1; layers as in the released code.
    """

    students: int

    @nn.compact
    def __call__(self, pooled: chex.Array, mode: Mode) -> tuple[chex.Array]:
        """Returns the shares, ``[batch, students]`` float32, in a tuple; each row sums to 1.

        Args:
          pooled: ``[batch, channels]`` float32, the pivot's last map averaged over space.
          mode: how to compute.
        """
        x = nn.Dense(self.students, name="dense")(pooled)
        x = BatchNorm(mode.axis_name, name="norm")(x, mode.train, mode.mask)
        return (jax.nn.softmax(nn.relu(x)),)


def initial_memory(rule: Rule, students: int) -> Memory:
    """What a rule remembers before the first step, on the host.

    Args:
      rule: the rule that ``config.ensemble.rule`` names.
      students: how many there are.
    """
    return {"losses": np.ones(students, np.float32)} if rule.follows_losses else {}


def remember(memory: Memory, metrics: Mapping[str, tuple[chex.Array, chex.Array]]) -> Memory:
    """Returns the memory after a step; only the rule's part changes, by all devices' metrics."""
    if "losses" not in memory:
        return memory
    total, count = metrics["hard"]
    mean = total / jnp.maximum(count, 1.0)
    mean = jnp.where(jnp.isfinite(mean), mean, memory["losses"])
    return {**memory, "losses": _DECAY * memory["losses"] + (1 - _DECAY) * mean}


def averaged(copies: Any, params: Any, step: chex.Array, decay: float) -> Any:
    """The averaged copies of rule ema after a step; after the first step they are the parameters.

    Args:
      copies: the copies before the step.
      params: the parameters after the step.
      step: the number of the step, from 0.
      decay: the largest share of the copies that a step keeps; early steps keep
        ``1 - 1 / (step + 1)``.

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
    """The teacher logits for each student by ``config.ensemble.rule``; no gradient flows back.

    Args:
      logits: ``[students, batch, classes]``.
      labels: ``[batch]`` integers, or ``[batch, classes]`` distributions; rule ``min_logit`` takes
        the likeliest class.
      memory: the rule's memory.
      config: the configuration; ``ensemble`` and ``teacher_weights`` are read.
      shares: ``[batch, students]``, the output of the :class:`Gate`, for rule ``gate``.
      copies: ``[students, batch, classes]``, the logits of the averaged copies, for rule ``ema``.

    Returns:
      ``[students or 1, teachers, batch, classes]``.
    """
    logits = jax.lax.stop_gradient(logits)
    by_rule: dict[str, Callable[[], chex.Array]] = {
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
    teachers = by_rule[config.ensemble.rule]()
    if teachers.ndim == 2:  # One teacher for all students.
        return teachers[None, None]
    return teachers if teachers.ndim == 4 else teachers[:, None]

"""The weight of each loss term at each step: ramps, and students that a term leaves out."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax.config import TERMS, ramp_epochs
from kdjax.config.terms import TEACHER_LOGITS

# From the step to the weight of each term, a scalar or ``[students]``.
WeightSchedule = Callable[[chex.Array], dict[str, Any]]


def ramped_weights(config: ml_collections.ConfigDict, steps_per_epoch: int) -> WeightSchedule:
    """Returns a function from the step to the weight of each term that is switched on.

    The weights are ``config.weights``, and ``config.weight_ramp`` says how they grow. A ramp that
    is longer than the run is cut to the length of the run.

    Args:
      config: the configuration; ``weights``, ``weight_ramp`` and ``epochs`` are read.
      steps_per_epoch: training steps in one epoch.
    """
    length = ramp_epochs(config.weight_ramp.epochs, config.epochs) * steps_per_epoch
    shapes: dict[str, Callable[[chex.Array], chex.Numeric]] = {
        "constant": lambda progress: 1.0,
        "linear": lambda progress: progress,
        "cosine": lambda progress: 0.5 - 0.5 * jnp.cos(jnp.pi * progress),
    }

    def weights(step: chex.Array) -> dict[str, chex.Array]:
        progress = jnp.minimum(1.0, step / length)
        return {
            term: jnp.float32(weight * shapes[config.weight_ramp[term]](progress))
            for term, weight in config.weights.items()
            if weight > 0
        }

    return weights


def ensemble_weights(
    config: ml_collections.ConfigDict,
    steps_per_epoch: int,
    students: int,
    *,
    pivot_learns: bool = True,
) -> WeightSchedule:
    """Returns a function from the step to the weight of each term, in an online ensemble.

    If ``config.student_weights`` are set, they multiply the weights of all terms but ``hard``.

    Args:
      config: the configuration, as in :func:`ramped_weights`; also ``student_weights`` is read.
      steps_per_epoch: training steps in one epoch.
      students: the number of students.
      pivot_learns: whether the widest student has a teacher. If not, its teacher logits are its
        own, and terms that compare logits with a teacher's leave it out: a divergence from its own
        logits is 0, but a cross entropy with them is not.
    """
    ramped = ramped_weights(config, steps_per_epoch)
    all_but_first = np.array([0.0] + [1.0] * (students - 1), np.float32)

    def weights(step: chex.Array) -> dict[str, chex.Array]:
        found = dict(ramped(step))
        for term in found:
            if config.student_weights and term != "hard":
                found[term] = found[term] * jnp.asarray(config.student_weights, jnp.float32)
            if not pivot_learns and TERMS[term].reads in TEACHER_LOGITS:
                found[term] = found[term] * all_but_first
        return found

    return weights


def taught_weights(
    config: ml_collections.ConfigDict, distilled: Sequence[bool], steps_per_epoch: int
) -> WeightSchedule:
    """Returns a function from the step to the weights of each term, beside a fixed teacher.

    The weights are ``[students]``. A student without a teacher has weight 1 for ``hard`` and weight
    0 for all other terms.

    Args:
      config: the stage's configuration, as in :func:`ramped_weights`.
      distilled: for each student, whether the teacher teaches it.
      steps_per_epoch: training steps in one epoch.
    """
    ramped = ramped_weights(config, steps_per_epoch)

    def weights(step: chex.Array) -> dict[str, chex.Array]:
        found = {"hard": jnp.float32(0.0), **ramped(step)}
        return {
            term: jnp.where(np.asarray(distilled), weight, np.float32(term == "hard"))
            for term, weight in found.items()
        }

    return weights


def with_labels(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration with the term ``hard`` switched on; if its weight is 0, it becomes 1."""
    if config.weights.hard > 0:
        return config
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.weights.hard = 1.0
    return changed

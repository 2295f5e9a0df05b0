"""The two ways to train a set of students: distilled as an ensemble, or each by itself."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from kdjax import losses
from kdjax.models import Architecture, IndependentNetworks, Outputs, StudentEnsemble
from kdjax.models.layers import BATCH_STATS
from kdjax.widths import WidthVector

Weights = dict[str, chex.Array]
Terms = dict[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """What a training step needs to know of a method.

    Attributes:
      model: the module whose variables are trained.
      forward: ``(variables, images, mask) -> (Outputs, new batch_stats)`` in training mode.
      loss: ``(outputs, labels, weights) -> (total [batch], {term: [students, batch]})``.
      separate: whether the students must not influence each other.
      teacher_weights: share of each student in the ensemble's logits; None is equal shares.
    """

    model: nn.Module
    forward: Callable[[Any, chex.Array, chex.Array], tuple[Outputs, Any]]
    loss: Callable[[Outputs, chex.Array, Weights], tuple[chex.Array, Terms]]
    separate: bool
    teacher_weights: Sequence[float] | None


def make(
    name: str,
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    axis_name: str | None,
) -> Method:
    """The method ``ensemble`` or ``independent``; devices are named by ``axis_name``."""
    fields = {
        "dtype": jnp.dtype(config.compute.dtype),
        "bn_axis_name": axis_name if config.compute.batch_norm == "global" else None,
    }
    builders = {"ensemble": _ensemble, "independent": _independent}
    return builders[name](config, architecture, student_widths, fields)


def _ensemble(config, architecture, student_widths, fields) -> Method:
    model = StudentEnsemble(architecture, student_widths, **fields)
    teacher_weights = tuple(config.teacher_weights) or None

    def loss(outputs: Outputs, labels: chex.Array, weights: Weights):
        return losses.online_ensemble_loss(
            outputs.logits,
            feature_pairs(outputs),
            labels,
            weights=weights,
            temperature=config.temperature,
            teacher_weights=teacher_weights,
            label_smoothing=config.label_smoothing,
        )

    def forward(variables, images, mask):
        outputs, stats = _forward(model, variables, images, mask)
        if config.feature_gradient_to_stem:
            return outputs, stats
        # The same computation with the stem held constant; the compiler merges the two forward
        # passes, and each keeps its own way back.
        held, _ = _forward(model.clone(stop_stem_gradient=True), variables, images, mask)
        return held._replace(logits=outputs.logits), stats

    return Method(model, forward, loss, False, teacher_weights)


def _independent(config, architecture, student_widths, fields) -> Method:
    model = IndependentNetworks(architecture, student_widths, **fields)

    def loss(outputs: Outputs, labels: chex.Array, weights: Weights):
        # A baseline learns from labels alone, at full weight; the weights belong to distillation.
        hard = losses.hard_label_cross_entropy(
            outputs.logits, labels, label_smoothing=config.label_smoothing
        )
        return jnp.sum(hard, axis=0), {"hard": hard}

    def forward(variables, images, mask):
        return _forward(model, variables, images, mask)

    return Method(model, forward, loss, True, None)


def _forward(model: nn.Module, variables, images, mask) -> tuple[Outputs, Any]:
    outputs, updated = model.apply(variables, images, train=True, mask=mask, mutable=[BATCH_STATS])
    return outputs, updated[BATCH_STATS]


def feature_pairs(outputs: Outputs) -> list[list[tuple[chex.Array, chex.Array]]]:
    """For each block, for each student 2..S: (adapted map, the pivot's map)."""
    return [
        [(student, maps[0]) for student in adapted]
        for maps, adapted in zip(outputs.features, outputs.adapted, strict=True)
    ]

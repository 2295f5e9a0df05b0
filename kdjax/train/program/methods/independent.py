"""The baselines: students that learn from labels, none seeing another."""

from typing import Any

import jax.numpy as jnp
import ml_collections

from kdjax import losses
from kdjax.models import Architecture, IndependentNetworks, Outputs
from kdjax.models.initialize import start_of
from kdjax.train.program import learned
from kdjax.train.program.learned import Beginning
from kdjax.train.program.methods.method import Method, Weights, forward, shares
from kdjax.train.program.objective import Examples, Judged
from kdjax.train.program.teaching import Memory
from kdjax.widths import WidthVector


def independent(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    fields: dict[str, Any],
) -> Method:
    """The same students side by side, each learning from labels alone.

    Args:
      config: of the experiment.
      architecture: of the students.
      student_widths: one width vector per student.
      fields: of the module.
    """
    model = IndependentNetworks(architecture, student_widths, **fields)

    def loss(outputs: Outputs, examples: Examples, weights: Weights, memory: Memory) -> Judged:
        del weights, memory
        # A baseline learns from labels alone, at full weight; the weights belong to distillation.
        hard = losses.hard_label_cross_entropy(
            outputs.logits, examples.labels, label_smoothing=config.label_smoothing
        )
        return Judged(jnp.sum(hard, axis=0), {"hard": hard}, {})

    def run(variables, teacher, images, mask, key=None):
        del teacher
        return forward(model, variables, images, mask, key)

    def beginning(image_shape: tuple[int, int, int], examples: int) -> Beginning:
        return learned.beside(start_of(model, image_shape), {}, {}, examples)

    return Method(
        model,
        run,
        loss,
        weights=lambda step: {},
        separate=True,
        beginning=beginning,
        teacher_weights=shares(config),
    )

"""The baselines: students that learn from labels and do not influence each other."""

from typing import Any

import jax.numpy as jnp
import ml_collections

from kdjax import losses
from kdjax.models import Architecture, IndependentNetworks
from kdjax.models.initialize import start_of
from kdjax.train.program import term_modules
from kdjax.train.program.methods.method import Method, Weights, apply_training, shares
from kdjax.train.program.objective import Examples, LossOutput
from kdjax.train.program.online_teacher import Memory
from kdjax.train.program.term_modules import InitialVariables, LossInputs
from kdjax.widths import WidthVector


def independent(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    fields: dict[str, Any],
) -> Method:
    """The method of the same students side by side, each learning from labels alone.

    Args:
      config: the experiment's configuration.
      architecture: the students' architecture.
      student_widths: one width vector per student.
      fields: the fields of the module.
    """
    model = IndependentNetworks(architecture, student_widths, **fields)

    def loss(
        inputs: LossInputs, examples: Examples, weights: Weights, memory: Memory
    ) -> LossOutput:
        del weights, memory
        # A baseline learns from labels alone, at full weight; the weights belong to distillation.
        hard = losses.hard_label_cross_entropy(
            inputs.logits, examples.labels, label_smoothing=config.label_smoothing
        )
        return LossOutput(jnp.sum(hard, axis=0), {"hard": hard}, {})

    def forward(variables, teacher, images, mask, key=None):
        del teacher
        outputs, stats = apply_training(model, variables, images, mask, key)
        return LossInputs(outputs.logits, outputs, {}), stats

    def initial(image_shape: tuple[int, int, int], examples: int) -> InitialVariables:
        return term_modules.with_terms(start_of(model, image_shape), {}, {}, examples)

    return Method(
        model,
        forward,
        loss,
        weights=lambda step: {},
        separate=True,
        initial=initial,
        teacher_weights=shares(config),
    )

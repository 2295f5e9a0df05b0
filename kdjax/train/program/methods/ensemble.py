"""Online ensemble distillation: the students teach each other."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections

from kdjax import losses
from kdjax.config import RULES, Parts
from kdjax.models import Architecture, Outputs, StudentEnsemble
from kdjax.train.program import term_modules
from kdjax.train.program.methods.method import Method, Weights, apply_training, shares
from kdjax.train.program.objective import Examples, LossOutput, objective
from kdjax.train.program.online_teacher import Gate, Memory, initial_memory, teacher_logits
from kdjax.train.program.reading import Calls, ensemble_taps
from kdjax.train.program.term_modules import LossInputs, TermModules
from kdjax.train.program.term_weights import ensemble_weights
from kdjax.widths import WidthVector

# The name of the gate among the terms' modules; no term can have this name.
_GATE = "ensemble.gate"


def ensemble(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    steps_per_epoch: int,
    fields: dict[str, Any],
) -> Method:
    """The method of an online ensemble, in which the students teach each other.

    Args:
      config: the experiment's configuration.
      architecture: the students' architecture.
      student_widths: one width vector per student, the pivot's first.
      steps_per_epoch: training steps in one epoch, for weights that grow over epochs.
      fields: the fields of the module.
    """
    model = StudentEnsemble(architecture, student_widths, **fields)
    wanted, rule = objective(config), RULES[config.ensemble.rule]
    parts = wanted.parts
    if rule.has_gate:
        # The gate's loss needs the students' logits too, so it is added in _with_gate.
        parts[_GATE] = Parts(losses.hard_label_cross_entropy, Gate(len(student_widths)))

    def read(outputs: Outputs) -> dict[str, Calls]:
        taps = ensemble_taps(outputs, outputs.logits)
        pivot = jax.lax.stop_gradient(outputs.features[-1][0])
        pooled = jnp.mean(pivot, axis=(1, 2), dtype=jnp.float32)
        return wanted.read(taps) | ({_GATE: [[(pooled,)]]} if rule.has_gate else {})

    modules = TermModules(parts, read, fields)

    def loss(
        inputs: LossInputs, examples: Examples, weights: Weights, memory: Memory
    ) -> LossOutput:
        gated = term_modules.only(inputs.projected[_GATE]) if rule.has_gate else None
        teachers = teacher_logits(
            inputs.logits, examples.labels, memory, config, shares=gated, copies=inputs.copies
        )
        taps = ensemble_taps(inputs.outputs, teachers)
        output = wanted(taps, examples, weights, memory.get(term_modules.NETWORK), inputs.projected)
        return output if gated is None else _with_gate(output, inputs.logits, gated, examples)

    def forward(variables, teacher, images, mask, key=None):
        outputs, stats = apply_training(model, variables, images, mask, key)
        if not config.feature_gradient_to_stem:
            # The same computation without gradients into the stem. The compiler merges the two
            # forward passes, and each keeps its own backward pass.
            held_stem = model.clone(stop_stem_gradient=True)
            held, _ = apply_training(held_stem, variables, images, mask, key)
            outputs = held._replace(logits=outputs.logits)
        inputs, stats = modules.run(outputs, variables, stats, mask)
        if rule.has_copies:
            # Use the batch's statistics, as the students do: running statistics would lag behind
            # the copies.
            averaged = {**variables, "params": teacher}
            copies, _ = apply_training(model, averaged, images, mask, key)
            inputs = inputs._replace(copies=copies.logits)
        return inputs, stats

    students = len(student_widths)
    return Method(
        model,
        forward,
        loss,
        ensemble_weights(config, steps_per_epoch, students, pivot_learns=rule.pivot_learns),
        separate=False,
        initial=modules.initial_of(model, model.init_with_output),
        copies_decay=config.ensemble.ema_decay if rule.has_copies else 0.0,
        teacher_weights=shares(config),
        memory=initial_memory(rule, students),
    )


def _with_gate(
    output: LossOutput, logits: chex.Array, shares: chex.Array, examples: Examples
) -> LossOutput:
    """Adds the gate's own loss, the cross entropy of the gated logits, which trains only the gate.

    Args:
      output: the objective's output, of all terms.
      logits: ``[students, batch, classes]``.
      shares: ``[batch, students]``, the output of the gate.
      examples: the examples of the batch.
    """
    gated = losses.gated_logits(jax.lax.stop_gradient(logits), shares)
    own = losses.hard_label_cross_entropy(gated, examples.labels)
    terms = {**output.terms, "gate": own}
    return output._replace(total=output.total + own, terms=terms)

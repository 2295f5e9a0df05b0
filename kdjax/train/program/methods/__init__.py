"""Training methods: an online ensemble, independent students, and students of a fixed teacher."""

import ml_collections

from kdjax.models import Architecture
from kdjax.models.execution import PLAIN, Execution
from kdjax.train.program.methods.ensemble import ensemble
from kdjax.train.program.methods.from_teacher import from_teacher
from kdjax.train.program.methods.independent import independent
from kdjax.train.program.methods.method import Method, Weights, first_memory, module_fields
from kdjax.widths import WidthVector

__all__ = ["Method", "Weights", "first_memory", "from_teacher", "make"]


def make(
    name: str,
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    student_widths: tuple[WidthVector, ...],
    steps_per_epoch: int,
    axis_name: str | None,
    execution: Execution = PLAIN,
) -> Method:
    """Makes a method with its module, forward pass and loss.

    Args:
      name: ``ensemble`` or ``independent``.
      config: the experiment's configuration.
      architecture: the family, depth and classes.
      student_widths: one width vector per student, the pivot's first.
      steps_per_epoch: training steps, for weights that grow over epochs.
      axis_name: the mapped axis of the devices; None: there is one device.
      execution: how the students run.
    """
    fields = module_fields(config, axis_name, execution)
    if name == "independent":
        return independent(config, architecture, student_widths, fields)
    return ensemble(config, architecture, student_widths, steps_per_epoch, fields)

"""Everything that training changes."""

from typing import Any

import chex
import flax.struct


class TrainState(flax.struct.PyTreeNode):
    """The state of one run; a step maps it to the next.

    Attributes:
      step: scalar int32, the number of steps done.
      key: the run's random key as raw uint32 data; each step folds its number into it.
      params: the trainable variables.
      batch_stats: running averages of the batch normalisations.
      optimizer_state: the state of the optax optimiser.
      memory: what the teacher rule and the terms remember from step to step; often empty.
    """

    step: chex.Array
    key: chex.Array
    params: Any
    batch_stats: Any
    optimizer_state: Any
    memory: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables in the form that ``module.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

"""Everything that training changes."""

from typing import Any

import chex
import flax.struct


class TrainState(flax.struct.PyTreeNode):
    """The state of one run; a step maps it to the next.

    Attributes:
      step: scalar int32, steps done.
      key: the run's random key as raw uint32 data; steps fold their number into it.
      params: the trainable variables.
      batch_stats: running averages of the batch normalisations.
      optimizer_state: of the optax optimiser.
      memory: what the teacher rule and the terms carry from step to step; empty for most.
    """

    step: chex.Array
    key: chex.Array
    params: Any
    batch_stats: Any
    optimizer_state: Any
    memory: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """As ``module.apply`` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

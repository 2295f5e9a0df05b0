"""What a run does after a step with NaN or infinity: stop, leave the step out, or roll back."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from kdjax.train.program import non_finite
from kdjax.train.program.non_finite import NonFiniteError

_LOGGER = logging.getLogger(__name__)


class Faults:
    """Applies ``config.faults`` to the steps of a run.

    Attributes:
      rollbacks: how often the run was rolled back since this object was made.
    """

    def __init__(self, name: str, config: ml_collections.ConfigDict):
        """Starts with no fault seen.

        Args:
          name: the name of the run.
          config: the ``faults`` section of its configuration.
        """
        self._name, self._config = name, config
        self._skipped = 0  # How many steps in a row.
        self.rollbacks = 0

    def leave_out(
        self, metrics: Any, first_step: int, networks: Mapping[str, Sequence[str]]
    ) -> tuple[Any, int]:
        """Returns a dispatch's metrics, in which faulty steps count for nothing, and their number.

        Args:
          metrics: stacked metrics of consecutive steps, on the host.
          first_step: the number of the first of these steps.
          networks: as :func:`kdjax.train.program.non_finite.find` takes them.

        Raises:
          NonFiniteError: if the run has to stop or roll back because of a faulty step.
        """
        found = non_finite.find(metrics, networks)
        skip = self._config.non_finite == "skip"
        for row, count in enumerate(metrics["loss"][1]):
            if row not in found:
                # Rows without examples only pad a short dispatch; they are not steps.
                self._skipped = 0 if count else self._skipped
                continue
            self._skipped += 1
            where = f"{self._name}: not finite at step {first_step + row}: {', '.join(found[row])}"
            if not skip or self._skipped > self._config.limit:
                tried = f" after {self._skipped - 1} skipped steps in a row" if skip else ""
                raise NonFiniteError(f"{where}{tried}")
            _LOGGER.warning("%s. The step is left out", where)
        return (non_finite.without(metrics, list(found)) if found else metrics), len(found)

    def roll_back(self, error: NonFiniteError) -> None:
        """Counts one rollback to the last checkpoint.

        Raises:
          NonFiniteError: ``error`` itself if the run must not roll back; an error that quotes it if
            the run has rolled back too often.
        """
        if self._config.non_finite != "rollback":
            raise error
        self.rollbacks += 1
        if self.rollbacks > self._config.limit:
            raise NonFiniteError(f"{error}. Gave up after {self._config.limit} rollbacks")

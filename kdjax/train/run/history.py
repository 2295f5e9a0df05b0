"""What a run keeps of itself: its states, which of them is best, how often it was made longer."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from kdjax.train.devices import processes
from kdjax.train.program.state import TrainState
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints
from kdjax.train.run.progress import ProgressReport

_LOGGER = logging.getLogger(__name__)


class Best(NamedTuple):
    """The best validation accuracy so far, mean over students, and its step; -1 while unknown."""

    validation: float = -1.0
    step: int = -1


class History:
    """The checkpoints of a run, and what their records say.

    Attributes:
      best: so far.
      raised: one line for each time the run was made longer while it was under way.
    """

    def __init__(
        self,
        name: str,
        config: ml_collections.ConfigDict,
        record: Mapping[str, Any],
        checkpoints: Checkpoints,
        progress: ProgressReport,
    ):
        """Starts with nothing known; :meth:`restore` reads what is there.

        Args:
          name: of the run.
          config: of the run.
          record: JSON that every checkpoint carries.
          checkpoints: of the run.
          progress: where it is said what differs from before.
        """
        self.best, self.raised = Best(), list[str]()
        self._name, self._config, self._record = name, config, record
        self._checkpoints, self._progress = checkpoints, progress

    def restore(self, initial: TrainState, *, keep_best: bool = False) -> TrainState | None:
        """The last state that was saved, on the host; None if the run has not begun.

        Args:
          initial: a state of this run, whose structure the stored one has.
          keep_best: whether what is best so far stays it, though it may be of a later step: after
            a rollback it is not made anew.
        """
        known = self.best
        self.best, self.raised = Best(), []
        state = initial

        def read() -> tuple[Best, list[str]] | None:
            nonlocal state
            found = self._checkpoints.recover(initial, self._record)
            if found is None:
                return None
            state, stored = found
            self._compare_devices(stored)
            best = known if keep_best else self._recover_best(state, stored)
            return best, self._with_raised(stored, int(state.step))

        found = processes.on_first(read)
        if found is None:
            return None
        (validation, step), self.raised = found
        self.best = Best(validation, step)
        return processes.broadcast(state)

    def save(self, host_state: TrainState) -> TrainState:
        """Starts to save a state as the last one, and returns it."""
        return self._save("last", host_state)

    def save_best(self, host_state: TrainState, validation: float) -> None:
        """Starts to save a state that has the best validation accuracy so far."""
        self.best = Best(validation, int(host_state.step))
        self._save("best", host_state)

    def best_state(self, last: TrainState) -> TrainState | None:
        """The state that was best on validation, on the host; None if there was no validation.

        Raises:
          CheckpointError: if its checkpoint is damaged.
        """
        checkpoints = self._checkpoints
        unwritten = checkpoints.unwritten("best")
        step = processes.on_first(
            lambda: checkpoints.latest_step("best") if unwritten is None else int(unwritten.step)
        )
        if step is None or step == int(last.step):
            return None if step is None else last
        best: TrainState | None = last

        def read() -> None:
            nonlocal best
            best = unwritten
            if best is None:
                best, _ = checkpoints.restore("best", last, self._record)

        processes.on_first_unshared(read)
        return processes.broadcast(best)

    def last_step(self) -> int | None:
        """The step of the last checkpoint on disk, once all saves have ended."""
        self.wait()
        return self._checkpoints.latest_step("last")

    def wait(self) -> None:
        """Returns when all saves are on disk, or given up with a warning."""
        self._checkpoints.wait()

    def _save(self, kind: str, host_state: TrainState) -> TrainState:
        record = {
            **self._record,
            "step": int(host_state.step),
            "best_validation": self.best.validation,
            "best_step": self.best.step,
            "epochs": self._config.epochs,
            "raised": self.raised,
        }
        self._checkpoints.save(kind, host_state, record)
        return host_state

    def _compare_devices(self, stored: Mapping[str, Any]) -> None:
        """Says so where another number of devices changes the numbers."""
        per_device = self._config.compute.batch_norm == "device"
        if per_device and stored["devices"] != self._record["devices"]:
            self._progress.say(
                f"{self._name} was saved on {stored['devices']} devices and goes on on "
                f"{self._record['devices']}: batch statistics are taken over other groups of images"
            )

    def _recover_best(self, state: TrainState, stored: Mapping[str, Any]) -> Best:
        """The best result that the record of ``state`` knows; its checkpoint is made sure of."""
        step, checkpoints = int(state.step), self._checkpoints
        # Last and best are written side by side, and a run may die with only one of them on disk.
        # A best one from later on, made anew by this run, has replaced the one before it; but one
        # that the record knows was there before the run went back over a fault.
        if checkpoints.latest_step("best") != stored["best_step"]:
            checkpoints.drop_newer("best", step)
        damaged = checkpoints.put_aside_damaged("best")
        best = Best(stored["best_validation"], stored["best_step"])
        if best.step in (step, checkpoints.latest_step("best")):
            self.best = best
            if checkpoints.latest_step("best") != best.step:
                self._save("best", state)
        elif damaged:
            self._miss_best(best.step)
        return self.best

    def _with_raised(self, stored: Mapping[str, Any], step: int) -> list[str]:
        """``raised`` of a checkpoint and, if the run has become longer since, one line more."""
        raised, before = list(stored.get("raised", ())), stored.get("epochs")
        if before in (None, self._config.epochs):
            return raised
        line = (
            f"{self._name}: epochs raised from {before} to {self._config.epochs} at step {step}; "
            "learning rate and ramps are those of the longer run from there on"
        )
        self._progress.say(line)
        return [*raised, line]

    def _miss_best(self, step: int) -> None:
        """The best checkpoint is lost: an error where the results would quote another one."""
        lost = f"{self._name}: the best checkpoint, of step {step}, is damaged"
        if self._config.evaluation.select == "best":
            raise CheckpointError(
                f"{lost}, and config.evaluation.select is 'best'. Delete the checkpoints of this "
                f"run to train it anew ({self._checkpoints.directory}), or put them back from a "
                "copy"
            )
        _LOGGER.warning("%s: the best is chosen among what comes", lost)

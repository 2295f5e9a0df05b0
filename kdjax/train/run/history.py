"""The history of a run: its saved states, which of them is best, when it was made longer."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from kdjax.train.devices import processes
from kdjax.train.program.state import TrainState
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints, DamagedError
from kdjax.train.run.progress import ProgressReport

_LOGGER = logging.getLogger(__name__)


class Best(NamedTuple):
    """The best validation accuracy so far, mean over students, and its step; -1 while unknown."""

    validation: float = -1.0
    step: int = -1


class History:
    """The checkpoints of a run, and what their records say.

    Attributes:
      best: the best validation result so far.
      lengthened: one line for each time the epochs were raised while the run was under way.
      skipped: how many steps were left out so far because of numbers that were not finite.
      rollbacks: how often the run went back to a checkpoint because of such numbers.
    """

    def __init__(
        self,
        name: str,
        config: ml_collections.ConfigDict,
        record: Mapping[str, Any],
        checkpoints: Checkpoints,
        progress: ProgressReport,
    ):
        """Starts with nothing known; :meth:`restore` reads the checkpoints.

        Args:
          name: the name of the run.
          config: the configuration of the run.
          record: JSON content that is stored with every checkpoint.
          checkpoints: the checkpoints of the run.
          progress: prints what has changed since the run was saved.
        """
        self.best, self.lengthened = Best(), list[str]()
        self.skipped = self.rollbacks = 0
        self._name, self._config, self._record = name, config, record
        self._checkpoints, self._progress = checkpoints, progress

    @property
    def remarks(self) -> list[str]:
        """What a reader of the run's results has to know, one line each."""
        counts = (
            ("steps left out because of numbers that were not finite", self.skipped),
            ("rollbacks because of numbers that were not finite", self.rollbacks),
        )
        return [
            *self.lengthened,
            *(f"{self._name}: {what}: {count}" for what, count in counts if count),
        ]

    def restore(self, initial: TrainState, *, keep_best: bool = False) -> TrainState | None:
        """Returns the last saved state, on the host; None if the run has not begun.

        Args:
          initial: a state of this run; the stored state has the same structure.
          keep_best: whether the best result so far is kept, although its step may be later than the
            restored one. A rollback needs this, because the run does not produce that result again.
        """
        known = self.best
        self.best, self.lengthened, self.skipped = Best(), [], 0
        state = initial

        def read() -> tuple[Best, list[str], int, int] | None:
            nonlocal state
            found = self._checkpoints.recover(initial, self._record)
            if found is None:
                return None
            state, stored = found
            self._compare_devices(stored)
            self.lengthened = self._with_lengthened(stored, int(state.step))
            self.skipped = stored.get("skipped", 0)
            # The checkpoint may be from before some rollbacks.
            self.rollbacks = max(stored.get("rollbacks", 0), self.rollbacks)
            # This may write a checkpoint, whose record has all of the above.
            best = known if keep_best else self._recover_best(state, stored)
            return best, self.lengthened, self.skipped, self.rollbacks

        found = processes.on_first(read)
        if found is None:
            return None
        (validation, step), self.lengthened, self.skipped, self.rollbacks = found
        self.best = Best(validation, step)
        return processes.broadcast(state)

    def save(self, host_state: TrainState) -> None:
        """Starts to save a state as the last one."""
        self._save("last", host_state)

    def save_best(self, host_state: TrainState, validation: float) -> None:
        """Starts to save a state that has the best validation accuracy so far."""
        self.best = Best(validation, int(host_state.step))
        self._save("best", host_state)

    def best_state(self, last: TrainState) -> TrainState | None:
        """Returns the state that was best on validation, on the host.

        It is None without validation, or if its checkpoint is damaged and the results are taken
        from the last state.

        Raises:
          CheckpointError: if its checkpoint is damaged and the results are to be taken from it.
        """
        checkpoints = self._checkpoints
        unwritten = checkpoints.unwritten("best")
        step = processes.on_first(
            lambda: checkpoints.latest_step("best") if unwritten is None else int(unwritten.step)
        )
        if step is None or step == int(last.step):
            return None if step is None else last
        best: TrainState | None = last

        def read() -> bool:
            nonlocal best
            best = unwritten
            if best is None:
                try:
                    best, _ = checkpoints.restore("best", last, self._record)
                except DamagedError:
                    checkpoints.put_aside_damaged("best")
                    self._report_lost_best(step)
                    return False
            return True

        return processes.broadcast(best) if processes.on_first(read) else None

    def last_step(self) -> int | None:
        """Waits for all saves, and returns the step of the last checkpoint on disk."""
        self.wait()
        return self._checkpoints.latest_step("last")

    def wait(self) -> None:
        """Waits until all saves are on disk or have been given up with a warning."""
        self._checkpoints.wait()

    def _save(self, kind: str, host_state: TrainState) -> None:
        record = {
            **self._record,
            "step": int(host_state.step),
            "best_validation": self.best.validation,
            "best_step": self.best.step,
            "epochs": self._config.epochs,
            "raised": self.lengthened,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
        }
        self._checkpoints.save(kind, host_state, record)

    def _compare_devices(self, stored: Mapping[str, Any]) -> None:
        """Prints a line if the number of devices has changed in a way that affects the results."""
        per_device = self._config.compute.batch_norm == "device"
        if per_device and stored["devices"] != self._record["devices"]:
            self._progress.say(
                f"{self._name}: the number of devices was {stored['devices']} and is "
                f"{self._record['devices']} now: batch statistics are over other groups of images"
            )

    def _recover_best(self, state: TrainState, stored: Mapping[str, Any]) -> Best:
        """Returns the best result in the record of ``state``; makes sure it has a checkpoint."""
        step, checkpoints = int(state.step), self._checkpoints
        # Last and best are written side by side, and a run may die with only one of them on disk.
        # If the best checkpoint is later than ``state`` and the record does not name it, it has
        # replaced the one that the record names. It is dropped: this run will write it again. If
        # the record names it, it was written before a rollback and is kept.
        if checkpoints.latest_step("best") != stored["best_step"]:
            checkpoints.drop_newer("best", step)
        damaged = checkpoints.put_aside_damaged("best")
        best = Best(stored["best_validation"], stored["best_step"])
        if best.step in (step, checkpoints.latest_step("best")):
            self.best = best
            if checkpoints.latest_step("best") != best.step:
                self._save("best", state)
        elif damaged:
            self._report_lost_best(best.step)
        return self.best

    def _with_lengthened(self, stored: Mapping[str, Any], step: int) -> list[str]:
        """Returns the lines in a checkpoint's record, and one more if the run is longer now."""
        raised, before = list(stored.get("raised", ())), stored.get("epochs")
        if before in (None, self._config.epochs):
            return raised
        line = (
            f"{self._name}: epochs raised from {before} to {self._config.epochs} at step {step}; "
            "learning rate and ramps are those of the longer run from there on"
        )
        self._progress.say(line)
        return [*raised, line]

    def _report_lost_best(self, step: int) -> None:
        """Reports a lost best checkpoint: an error if the results are to be taken from it."""
        lost = f"{self._name}: the best checkpoint, of step {step}, is damaged"
        if self._config.evaluation.select == "best":
            raise CheckpointError(
                f"{lost}, and config.evaluation.select is 'best'. Delete the checkpoints of this "
                f"run to train it anew ({self._checkpoints.directory}), or put them back from a "
                "copy"
            )
        _LOGGER.warning("%s: only later evaluations can be the best now", lost)

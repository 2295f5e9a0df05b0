"""One run: one method and one seed, from its last checkpoint to its last epoch."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np

from kdjax.train.devices import processes
from kdjax.train.program import non_finite
from kdjax.train.program.compiled import Runner
from kdjax.train.program.non_finite import NonFiniteError
from kdjax.train.program.state import TrainState
from kdjax.train.run.checkpoint import CheckpointError, Checkpoints
from kdjax.train.run.interrupt import Interrupted, Interrupts
from kdjax.train.run.metrics import MetricsWriter, Window
from kdjax.train.run.progress import ProgressReport


@dataclasses.dataclass
class Run:
    """Trains one (method, seed), saving and measuring on the way.

    Attributes:
      name: such as ``ensemble-seed0``.
      seed: of initialisation, order and augmentation.
      runner: the compiled functions.
      config: of the experiment.
      checkpoints: of this run.
      record: JSON that every checkpoint carries.
      writer, progress, interrupts: where measurements go and signals come from.
      begin: the state to start from, made of the runner's initial one.
      watch: sees every written record of training: ``(step, values)``.
      raised: one line for each time the run was made longer while it was under way.
    """

    name: str
    seed: int
    runner: Runner
    config: ml_collections.ConfigDict
    checkpoints: Checkpoints
    record: Mapping[str, Any]
    writer: MetricsWriter
    progress: ProgressReport
    interrupts: Interrupts
    begin: Callable[[TrainState], TrainState] = lambda state: state
    watch: Callable[[int, Mapping[str, Any]], None] = lambda step, values: None

    def __post_init__(self) -> None:
        self.raised: list[str] = []
        self._steps_per_epoch = self.runner.steps_per_epoch
        self._best, self._best_step = -1.0, -1
        self._agreed, self._skipped, self._rollbacks = 0, 0, 0
        self._compiled = False
        self._images = 0
        self._seconds = 0.0

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self._steps_per_epoch

    @property
    def images_per_second(self) -> float:
        """Of training alone, without the first dispatch, which compiles; 0 while unknown."""
        return self._images / self._seconds if self._seconds else 0.0

    def finish(self) -> TrainState:
        """Trains up to the last epoch.

        Returns:
          The last state, on the host.

        Raises:
          Interrupted: after a signal; the state is saved.
          NonFiniteError: if a loss is NaN or infinite; the last good state stays saved.
        """
        host_state, step = self._restore()
        self.progress.start(self._images_up_to(self.total_steps), self._images_up_to(step))
        if 0 < step < self.total_steps:
            self.progress.say(f"{self.name} goes on from step {step}, {self._place(step)}")
        while True:
            self.writer.start(self.name, step)
            if step >= self.total_steps:
                return host_state
            try:
                return self._train(host_state, step)
            except NonFiniteError as error:
                if self.config.faults.non_finite != "rollback":
                    raise
                host_state, step = self._roll_back(error)

    def _images_up_to(self, step: int) -> int:
        """Images of the steps before ``step``; the last batch of an epoch may be a smaller one."""
        epochs, steps = divmod(step, self._steps_per_epoch)
        feed = self.runner.feed
        size = feed.sizes["train"]
        return epochs * size + min(steps * feed.batch_size, size)

    def _place(self, step: int) -> str:
        """The epoch that ``step`` is in, for people."""
        return f"epoch {step // self._steps_per_epoch + 1}/{self.config.epochs}"

    def _train(self, host_state: TrainState, step: int) -> TrainState:
        state = self.runner.place(host_state)
        for epoch in range(step // self._steps_per_epoch, self.config.epochs):
            state, step = self._train_epoch(state, step, epoch)
            done = epoch + 1
            last = done == self.config.epochs
            stop = self._asked_to_stop()
            if last or done % self.config.evaluation.every_epochs == 0:
                self._validate(state, step, done)
            if last or stop or done % self.config.checkpoint.every_epochs == 0:
                host_state = self._save("last", self.runner.fetch(state))
            if stop:
                self._stop(step)
        self.checkpoints.wait()
        return host_state

    def _roll_back(self, error: NonFiniteError) -> tuple[TrainState, int]:
        """The last checkpoint with another key: the same batches would lead to the same fault."""
        self._rollbacks += 1
        if self._rollbacks > self.config.faults.limit:
            raise NonFiniteError(f"{error}. Gave up after {self.config.faults.limit} rollbacks")
        self.checkpoints.wait()
        self._best, self._best_step = -1.0, -1
        state, step = self._restore()
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), self._rollbacks)
        logging.warning("%s. Back to step %d, and on with other batches", error, step)
        return state.replace(key=np.asarray(jax.random.key_data(key))), step

    def best_state(self, last: TrainState) -> TrainState | None:
        """The state that was best on validation, on the host; None if there was no validation.

        Raises:
          kdjax.train.run.checkpoint.CheckpointError: if its checkpoint is damaged.
        """
        unwritten = self.checkpoints.unwritten("best")
        step = processes.on_first(
            lambda: (
                self.checkpoints.latest_step("best") if unwritten is None else int(unwritten.step)
            )
        )
        if step is None or step == int(last.step):
            return None if step is None else last
        best: TrainState | None = last

        def read() -> None:
            nonlocal best
            best = unwritten
            if best is None:
                best, _ = self.checkpoints.restore("best", last, self.record)

        processes.on_first_unshared(read)
        return processes.broadcast(best)

    def _asked_to_stop(self) -> str:
        """The signal after which all processes stop at this very step, or empty."""
        if processes.count() == 1:
            return self.interrupts.received
        return self.interrupts.name(self._agreed)

    def _restore(self) -> tuple[TrainState, int]:
        state = initial = self.runner.initial_state(self.seed)

        def read() -> list[Any] | None:
            nonlocal state
            found = self.checkpoints.recover(initial, self.record)
            if found is None:
                return None
            state, stored = found
            return self._recover_best(state, stored)

        found = processes.on_first(read)
        if found is None:
            return self.begin(initial), 0
        self._best, self._best_step, self.raised = found
        state = processes.broadcast(state)
        return state, int(state.step)

    def _recover_best(self, state: TrainState, stored: Mapping[str, Any]) -> list[Any]:
        """What is best so far, value and step, as ``state`` knew it; its checkpoint is there.

        With it the run's history: how often it was made longer.
        """
        per_device = self.config.compute.batch_norm == "device"
        if per_device and stored["devices"] != self.record["devices"]:
            self.progress.say(
                f"{self.name} was saved on {stored['devices']} devices and goes on on "
                f"{self.record['devices']}: batch statistics are taken over other groups of images"
            )
        step, checkpoints = int(state.step), self.checkpoints
        # The two kinds are written side by side, and a run may die with only one of them on disk.
        # A best one from later on, made anew by this run, has replaced the one before it.
        checkpoints.drop_newer("best", step)
        damaged = checkpoints.put_aside_damaged("best")
        best_step = stored["best_step"]
        if best_step in (step, checkpoints.latest_step("best")):
            self._best, self._best_step = stored["best_validation"], best_step
            if checkpoints.latest_step("best") != best_step:
                self._save("best", state)
        elif damaged:
            self._miss_best(best_step)
        return [self._best, self._best_step, self._raised_since(stored, step)]

    def _raised_since(self, stored: Mapping[str, Any], step: int) -> list[str]:
        """``raised`` of a checkpoint and, if the run has become longer since, one line more."""
        raised, before = list(stored.get("raised", ())), stored.get("epochs")
        if before in (None, self.config.epochs):
            return raised
        line = (
            f"{self.name}: epochs raised from {before} to {self.config.epochs} at step {step}; "
            "learning rate and ramps are those of the longer run from there on"
        )
        self.progress.say(line)
        return [*raised, line]

    def _miss_best(self, step: int) -> None:
        """The best checkpoint is lost: an error where the results would quote another one."""
        lost = f"{self.name}: the best checkpoint, of step {step}, is damaged"
        if self.config.evaluation.select == "best":
            raise CheckpointError(
                f"{lost}, and config.evaluation.select is 'best'. Delete the checkpoints of this "
                f"run to train it anew ({self.checkpoints.directory}), or put them back from a copy"
            )
        logging.warning("%s: the best is chosen among what comes", lost)

    def _train_epoch(self, state: TrainState, step: int, epoch: int) -> tuple[TrainState, int]:
        runner, window = self.runner, Window()
        end = (epoch + 1) * self._steps_per_epoch
        inputs = runner.epoch(state, step)
        pending: tuple[Any, int, int, Any] | None = None
        started = time.perf_counter()
        while step < end:
            state, metrics, taken = runner.steps(state, inputs, step, end)
            asked = runner.any_of(self.interrupts.code)
            # Reading metrics waits for their steps, so the next dispatch goes out first.
            if pending is not None:
                started = self._read(window, pending, started)
            pending = (metrics, step, taken, asked)
            step += taken
            if self._asked_to_stop() and step < end:
                self._read(window, pending, started)
                self._write(window, step)
                self._save("last", self.runner.fetch(state))
                self._stop(step)
        if pending is not None:
            self._read(window, pending, started)
        self._write(window, step)
        return state, step

    def _read(self, window: Window, pending: tuple[Any, int, int, Any], started: float) -> float:
        """Reads the metrics of a dispatch on the host; returns the time they were there."""
        metrics, first_step, taken, asked = pending
        metrics = self.runner.to_host(metrics)
        self._agreed = max(self._agreed, self.runner.read(asked))
        metrics = self._without_faults(window, metrics, first_step)
        now = time.perf_counter()
        images = int(np.sum(metrics["loss"][1]))
        if self._compiled:
            self._images += images
            self._seconds += now - started
        self._compiled = True
        window.add(metrics, taken)
        reached = self._images_up_to(first_step + taken)
        self.progress.reach(reached, self.name, self._place(first_step), self.images_per_second)
        if window.steps >= self.config.log.every_steps:
            self._write(window, first_step + taken)
        return now

    def _without_faults(self, window: Window, metrics: Any, first_step: int) -> Any:
        """Metrics of a dispatch without the steps left out; raises where that is asked."""
        found = non_finite.find(metrics, self.runner.networks)
        if not found:
            self._skipped = 0
            return metrics
        skip = self.config.faults.non_finite == "skip"
        for row in range(min(found), max(found) + 1):
            self._skipped = self._skipped + 1 if row in found else 0
            if row not in found:
                continue
            where = f"{self.name}: not finite at step {first_step + row}: {', '.join(found[row])}"
            if not skip or self._skipped > self.config.faults.limit:
                self._write(window, first_step)
                self.checkpoints.wait()
                saved = self.checkpoints.latest_step("last")
                good = "none yet" if saved is None else f"step {saved}"
                tried = f" after {self._skipped - 1} skipped steps in a row" if skip else ""
                raise NonFiniteError(f"{where}{tried}. Last good checkpoint: {good}")
            logging.warning("%s. The step is left out", where)
        if max(found) < len(metrics["loss"][1]) - 1:
            self._skipped = 0
        return non_finite.without(metrics, list(found))

    def _write(self, window: Window, step: int) -> None:
        if window.steps:
            values = {
                "epoch": step / self._steps_per_epoch,
                "learning_rate": float(self.runner.schedule(step - 1)),
                "images_per_second": self.images_per_second,
                **window.means(),
            }
            self.writer.write("train", step, values)
            self.watch(step, values)
            window.clear()

    def _validate(self, state: TrainState, step: int, epoch: int) -> None:
        if not self.runner.feed.sizes["validation"]:
            return
        means = {
            name: value.tolist()
            for name, value in self.runner.evaluate(state.variables, "validation").items()
        }
        self.writer.write("validation", step, {"epoch": epoch, **means})
        place = f"epoch {epoch}/{self.config.epochs}"
        self.progress.news(self.name, place, self.images_per_second, means)
        score = float(np.mean(means["accuracy"]))
        if score > self._best:
            self._best, self._best_step = score, step
            self._save("best", self.runner.fetch(state))

    def _save(self, kind: str, host_state: TrainState) -> TrainState:
        best = {"best_validation": self._best, "best_step": self._best_step}
        history = {"epochs": self.config.epochs, "raised": self.raised}
        record = {**self.record, "step": int(host_state.step), **best, **history}
        self.checkpoints.save(kind, host_state, record)
        return host_state

    def _stop(self, step: int) -> NoReturn:
        self.checkpoints.wait()
        raise Interrupted(self._asked_to_stop(), self.name, step)

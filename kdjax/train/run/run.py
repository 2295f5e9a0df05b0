"""One run: one method and one seed, from its last checkpoint to its last epoch."""

import dataclasses
import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import ml_collections
import numpy as np

from kdjax.train.devices import processes
from kdjax.train.program.compiled import Runner
from kdjax.train.program.non_finite import NonFiniteError
from kdjax.train.program.state import TrainState
from kdjax.train.run.faults import Faults
from kdjax.train.run.history import History
from kdjax.train.run.interrupt import Interrupted
from kdjax.train.run.metrics import Window
from kdjax.train.run.throughput import Throughput
from kdjax.train.run.workspace import Workspace

_LOGGER = logging.getLogger(__name__)


class _Dispatch(NamedTuple):
    """A dispatch that is under way: its metrics and its steps."""

    metrics: Any
    first_step: int
    steps: int
    asked: Any  # The signal that any process has received, to be read later.


@dataclasses.dataclass
class Run:
    """Trains one method with one seed; saves and validates on the way.

    Attributes:
      name: such as ``ensemble-seed0``.
      seed: the seed of initialisation, data order and augmentation.
      runner: the compiled functions.
      config: the configuration of the run.
      record: JSON content that is stored with every checkpoint.
      workspace: takes the metrics, shows the progress and receives signals.
      begin: the runner's initial state -> the state to start from.
      watch: called with ``(step, values)`` for every record of training that is written.
      history: the checkpoints of the run and what their records say.
      throughput: the speed of training in this session.
    """

    name: str
    seed: int
    runner: Runner
    config: ml_collections.ConfigDict
    record: Mapping[str, Any]
    workspace: Workspace
    begin: Callable[[TrainState], TrainState] = lambda state: state
    watch: Callable[[int, Mapping[str, Any]], None] = lambda step, values: None

    def __post_init__(self) -> None:
        checkpoints = self.workspace.checkpoints(self.name, self.config.checkpoint.keep)
        self._progress = self.workspace.progress
        self.history = History(self.name, self.config, self.record, checkpoints, self._progress)
        self.throughput = Throughput()
        self._faults = Faults(self.name, self.config.faults)
        self._steps_per_epoch = self.runner.steps_per_epoch
        self._agreed_signal = 0  # The number of the signal that all processes know of.

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self._steps_per_epoch

    def train(self) -> TrainState:
        """Trains up to the last epoch.

        Returns:
          The last state, on the host.

        Raises:
          Interrupted: after a signal; the state is saved, or the error says that it could not be.
          NonFiniteError: if a loss, gradient or statistic is NaN or infinite; the last good state
            stays saved.
        """
        host_state = self._restore()
        step = int(host_state.step)
        self._progress.start(self._images_up_to(self.total_steps), self._images_up_to(step))
        if 0 < step < self.total_steps:
            self._progress.say(f"{self.name} goes on from step {step}, {self._place(step)}")
        while True:
            self.workspace.writer.start(self.name, step)
            if step >= self.total_steps:
                return host_state
            try:
                return self._train_from(host_state, step)
            except NonFiniteError as error:
                host_state = self._roll_back(error)
                step = int(host_state.step)

    def _restore(self, *, keep_best: bool = False) -> TrainState:
        initial = self.runner.initial_state(self.seed)
        found = self.history.restore(initial, keep_best=keep_best)
        return self.begin(initial) if found is None else found

    def _images_up_to(self, step: int) -> int:
        """Returns the images of the steps before ``step``; an epoch's last batch may be smaller."""
        epochs, steps = divmod(step, self._steps_per_epoch)
        feed = self.runner.feed
        size = feed.sizes["train"]
        return epochs * size + min(steps * feed.batch_size, size)

    def _place(self, step: int) -> str:
        """Returns the epoch that ``step`` is in, as text for the user."""
        return f"epoch {step // self._steps_per_epoch + 1}/{self.config.epochs}"

    def _train_from(self, host_state: TrainState, step: int) -> TrainState:
        state = self.runner.place(host_state)
        for epoch in range(step // self._steps_per_epoch, self.config.epochs):
            state, step = self._train_epoch(state, step, epoch)
            done = epoch + 1
            last = done == self.config.epochs
            stop = self._asked_to_stop()
            if last or done % self.config.evaluation.every_epochs == 0:
                self._validate(state, step, done)
            if last or stop or done % self.config.checkpoint.every_epochs == 0:
                host_state = self.runner.fetch(state)
                self.history.save(host_state)
            if stop:
                self._stop(step)
        self.history.wait()
        return host_state

    def _roll_back(self, error: NonFiniteError) -> TrainState:
        """Returns the last checkpoint with another key: the same batches would fail again."""
        self._faults.roll_back(error)
        self.history.wait()
        state = self._restore(keep_best=True)
        self.history.rollbacks += 1
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), self._faults.rollbacks)
        _LOGGER.warning("%s. Back to step %d, and on with other batches", error, int(state.step))
        return state.replace(key=np.asarray(jax.random.key_data(key)))

    def _asked_to_stop(self) -> str:
        """Returns the signal for which all processes stop at this step, or an empty string."""
        alone = processes.count() == 1
        number = self.workspace.interrupts.received if alone else self._agreed_signal
        return signal.Signals(number).name if number else ""

    def _train_epoch(self, state: TrainState, step: int, epoch: int) -> tuple[TrainState, int]:
        runner, window = self.runner, Window()
        end = (epoch + 1) * self._steps_per_epoch
        inputs = runner.epoch(state, step)
        pending: _Dispatch | None = None
        started = time.perf_counter()
        while step < end:
            state, metrics, taken = runner.steps(state, inputs, step, end)
            self.throughput.start("full" if taken == runner.steps_per_dispatch else "short")
            asked = runner.start_max(self.workspace.interrupts.received)
            # Reading metrics waits for their steps, so the next dispatch is started first.
            if pending is not None:
                started = self._read(window, pending, started)
            pending = _Dispatch(metrics, step, taken, asked)
            step += taken
            if self._asked_to_stop() and step < end:
                self._read(window, pending, started)
                self._write(window, step)
                self.history.save(runner.fetch(state))
                self._stop(step)
        if pending is not None:
            self._read(window, pending, started)
        self._write(window, step)
        return state, step

    def _read(self, window: Window, pending: _Dispatch, started: float) -> float:
        """Reads the metrics of a dispatch; returns the time when they were on the host."""
        metrics = self.runner.to_host(pending.metrics)
        self._agreed_signal = max(self._agreed_signal, self.runner.read_max(pending.asked))
        try:
            metrics, skipped = self._faults.leave_out(
                metrics, pending.first_step, self.runner.networks
            )
        except NonFiniteError as error:
            self._write(window, pending.first_step)
            saved = self.history.last_step()
            good = "none yet" if saved is None else f"step {saved}"
            raise NonFiniteError(f"{error}. Last good checkpoint: {good}") from None
        self.history.skipped += skipped
        now = time.perf_counter()
        self.throughput.add(int(np.sum(metrics["loss"][1])), now - started)
        window.add(metrics, pending.steps)
        reached, place = pending.first_step + pending.steps, self._place(pending.first_step)
        rate = self.throughput.images_per_second
        self._progress.reach(self._images_up_to(reached), self.name, place, rate)
        if window.steps >= self.config.log.every_steps:
            self._write(window, reached)
        return now

    def _write(self, window: Window, step: int) -> None:
        if window.steps:
            values = {
                "epoch": step / self._steps_per_epoch,
                "learning_rate": float(self.runner.schedule(step - 1)),
                "images_per_second": self.throughput.images_per_second,
                **window.means(),
            }
            self.workspace.writer.write("train", step, values)
            self.watch(step, values)
            window.clear()

    def _validate(self, state: TrainState, step: int, epoch: int) -> None:
        if not self.runner.feed.sizes["validation"]:
            return
        means = {
            name: value.tolist()
            for name, value in self.runner.evaluate(state.variables, "validation").items()
        }
        self.workspace.writer.write("validation", step, {"epoch": epoch, **means})
        place, rate = f"epoch {epoch}/{self.config.epochs}", self.throughput.images_per_second
        self._progress.news(self.name, place, rate, means)
        score = float(np.mean(means["accuracy"]))
        if score > self.history.best.validation:
            self.history.save_best(self.runner.fetch(state), score)

    def _stop(self, step: int) -> NoReturn:
        saved = processes.on_first(self.history.last_step)
        raise Interrupted(self._asked_to_stop(), self.name, step, saved)

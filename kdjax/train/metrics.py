"""What a run measures, as lines of JSON and TensorBoard events."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.train.step import Metrics
from kdjax.train.workdir import write_atomically


class NonFiniteError(ArithmeticError):
    """A loss that is NaN or infinite; the message says where."""


class Window:
    """Sums the metrics of consecutive steps; means of (sum, count) pairs are exact."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets all steps."""
        self.steps = 0
        self._sums: dict[str, tuple[Any, Any]] = {}

    def add(self, metrics: Metrics, steps: int) -> None:
        """Adds the stacked metrics ``[steps_per_dispatch, ...]`` of ``steps`` steps."""
        self.steps += steps
        for name, (value, count) in metrics.items():
            total = np.sum(value, axis=0, dtype=np.float64)
            number = np.sum(count, dtype=np.float64)
            old_total, old_number = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (old_total + total, old_number + number)

    def means(self) -> dict[str, Any]:
        """Mean per metric: a number, or a list with one per student."""
        return {name: (total / count).tolist() for name, (total, count) in self._sums.items()}


def check_finite(metrics: Metrics, first_step: int, run: str) -> None:
    """Raises NonFiniteError at the first step whose loss or gradient is not finite.

    Args:
      metrics: stacked, ``[steps_per_dispatch, ...]``.
      first_step: number of the step that the first row belongs to.
      run: name of the run.
    """
    wrong = {
        name: ~np.isfinite(value) for name, (value, _) in metrics.items() if name != "accuracy"
    }
    rows = [np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)) for bad in wrong.values()]
    bad_rows = np.concatenate(rows)
    if not len(bad_rows):
        return
    row = int(bad_rows.min())
    places = []
    for name, bad in wrong.items():
        if bad[row].ndim == 1:
            places += [f"{name} of student {i + 1}" for i in np.flatnonzero(bad[row])]
        elif bad[row]:
            places.append(name)
    raise NonFiniteError(f"{run}: not finite at step {first_step + row}: {', '.join(places)}")


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and writes TensorBoard events under ``tensorboard/``.

    A run that continues from a checkpoint first takes back what it had written past it.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool):
        self._path = workdir / "metrics.jsonl"
        self._events = workdir / "tensorboard" if tensorboard else None
        self._run = ""
        self._writer: Any = None

    def start(self, run: str, step: int) -> None:
        """Makes ``run`` the current run, continuing after ``step``."""
        self.close()
        self._run = run
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if self._keep(line, step)]
            write_atomically(self._path, "".join(f"{line}\n" for line in kept))
        if self._events is not None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._events / run), purge_step=step + 1)

    def _keep(self, line: str, step: int) -> bool:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # The last line of a run that was killed while writing it.
            return False
        return record["run"] != self._run or record["step"] <= step

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes one record: ``kind`` is ``train`` or ``validation``."""
        record = {"run": self._run, "kind": kind, "step": step, **values}
        with open(self._path, "a") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer is None:
            return
        for name, value in values.items():
            if isinstance(value, list):
                for number, one in enumerate(value, start=1):
                    self._writer.add_scalar(f"{kind}/{name}/student_{number}", one, step)
            elif isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes the events of the current run."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

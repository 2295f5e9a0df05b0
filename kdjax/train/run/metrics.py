"""Writes what a run measures, as lines of JSON and as TensorBoard events."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import atomic
from kdjax.train.program.non_finite import FLAGS
from kdjax.train.program.step import Metrics
from kdjax.train.run.events import Events

_LOGGER = logging.getLogger(__name__)


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
            if name in FLAGS:
                continue
            total = np.sum(value, axis=0, dtype=np.float64)
            number = np.sum(count, dtype=np.float64)
            old_total, old_number = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (old_total + total, old_number + number)

    def means(self) -> dict[str, Any]:
        """Returns the mean of each metric: a number, or a list with one number per student.

        Steps that were left out do not count. A metric without any counted step is missing.
        """
        return {
            name: (total / count).tolist() for name, (total, count) in self._sums.items() if count
        }


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and writes TensorBoard events under ``tensorboard/``.

    A run that continues from a checkpoint first deletes the lines that it had written after that
    checkpoint. On a full disk training goes on: lines wait until they can be written, events are
    given up.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool, writes: bool = True):
        """Writes into ``workdir``; writes nothing if ``writes`` is False (another process does)."""
        self._writes = writes
        self._path = workdir / "metrics.jsonl"
        self._directory = workdir / "tensorboard" if tensorboard and writes else None
        self._run = ""
        self._waiting: list[str] = []
        self._events: Events | None = None

    def start(self, run: str, step: int) -> None:
        """Makes ``run`` the current run, continuing after ``step``."""
        self.close()
        self._run = run
        if self._path.exists() and self._writes:
            self._take_back(step)
        if self._directory is not None:
            try:
                self._events = Events(self._directory / run, step + 1)
            except OSError as error:
                self._give_up_events(error)

    def _take_back(self, step: int) -> None:
        """Deletes what the current run wrote after ``step``, and lines that cannot be read."""
        content = self._path.read_bytes()
        lines = content.decode(errors="replace").splitlines()
        records = [_parse(line) for line in lines]
        # If a run is killed while it writes, its last line is cut short. That needs no warning.
        if damaged := sum(record is None for record in records[:-1]):
            _LOGGER.warning("%s: %d lines cannot be read and are left out", self._path, damaged)
        kept = "".join(
            f"{line}\n"
            for line, record in zip(lines, records, strict=True)
            if record is not None and (record["run"] != self._run or record["step"] <= step)
        ).encode()
        if kept == content:
            return
        try:
            if content.startswith(kept):  # Works on a full disk, which has no room for a copy.
                os.truncate(self._path, len(kept))
            else:
                atomic.write(self._path, kept)
        except OSError as error:
            _LOGGER.warning("%s; it keeps the lines of %s after step %d", error, self._run, step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes one record.

        Args:
          kind: ``train`` or ``validation``.
          step: the training step.
          values: name -> number or lists of numbers; NaN and infinity are written as null.
        """
        if not self._writes:
            return
        record = {"run": self._run, "kind": kind, "step": step, **values}
        self._append(json.dumps(_finite(record), allow_nan=False) + "\n")
        if self._events is not None:
            try:
                self._events.scalars(step, _tagged(kind, values))
            except OSError as error:
                self._give_up_events(error)

    def _append(self, *lines: str) -> None:
        first = not self._waiting
        self._waiting += lines
        if not self._waiting:
            return
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with open(self._path, "a") as file:
                file.writelines(self._waiting)
        except OSError as error:
            if first:
                _LOGGER.warning(
                    "%s cannot be written (%s); lines wait in memory", self._path, error
                )
            if self._path.exists():
                os.truncate(self._path, size)  # Leaves no half-written line.
            return
        self._waiting.clear()

    def _give_up_events(self, error: OSError) -> None:
        _LOGGER.warning("%s cannot be written (%s): no more events", self._directory, error)
        self._directory, self._events = None, None

    def close(self) -> None:
        """Writes the waiting lines, and closes the events of the current run."""
        self._append()
        if self._waiting:
            _LOGGER.warning("%s lacks its last %d lines", self._path, len(self._waiting))
        if self._events is not None:
            try:
                self._events.close()
            except OSError as error:
                self._give_up_events(error)
            self._events = None


def _parse(line: str) -> dict[str, Any] | None:
    """Returns the record in a line of ``metrics.jsonl``; None if the line holds no record."""
    try:
        record = json.loads(line)
        known = isinstance(record["run"], str) and isinstance(record["kind"], str)
        return record if known and record["step"] >= 0 else None
    except (KeyError, RecursionError, TypeError, ValueError):
        return None


def _finite(content: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by None."""
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _tagged(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Returns numbers by their name in TensorBoard; a list becomes one number per student."""
    tagged: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, list):
            tagged |= {f"{kind}/{name}/student_{i}": one for i, one in enumerate(value, start=1)}
        elif isinstance(value, (int, float)) and math.isfinite(value):
            tagged[f"{kind}/{name}"] = value
    return tagged

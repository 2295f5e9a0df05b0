"""Checkpoints: written by Orbax, atomic and asynchronous, with additional checksums.

The latest and the best checkpoints are kept in separate folders. A checkpoint is the unreplicated
state with a JSON record of what it belongs to (network, width vectors, configuration, step), so
that the network can be rebuilt from the checkpoint alone. Orbax restores flipped bits without an
error. Therefore the record has a SHA-256 of every part of the state and of the record itself. A
list next to the record has a SHA-256 of every file, which shows damage before Orbax reads the file.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kdjax.train.program.state import TrainState
from kdjax.train.run import array_writes, checksums

_LOGGER = logging.getLogger(__name__)

_SUMS = "sha256"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are missing, cut short or altered."""


@contextlib.contextmanager
def _without_read_only_warnings() -> Iterator[None]:
    """Drops Orbax's warnings that a directory is opened read-only, which is what was asked for."""
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "read only" not in text and "read_only" not in text

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


class Checkpoints:
    """The checkpoints of one run: ``last/<step>`` and ``best/<step>`` under ``directory``.

    If a checkpoint cannot be written, for example because the disk is full, a warning is logged and
    the write is tried again with the next checkpoint. Earlier checkpoints stay. A damaged
    checkpoint is moved to ``damaged/`` and never deleted.
    """

    def __init__(
        self, directory: Path, keep: int = 2, *, read_only: bool = False, writes: bool = True
    ):
        """Opens the directory, creating it unless ``read_only``.

        Args:
          directory: the directory of the run's checkpoints.
          keep: how many of the latest steps are kept.
          read_only: whether the directory must not be changed.
          writes: whether this process keeps the checkpoints. If another process does, saves do
            nothing here and no checkpoint is found.
        """
        if not read_only:
            array_writes.register()
        self.directory = directory
        self._keep = {"last": keep, "best": 1}
        self._read_only = read_only
        # States and records that are being written, and those that could not be written, by kind.
        self._writing: dict[str, tuple[TrainState, Mapping[str, Any]]] = {}
        self._unwritten: dict[str, tuple[TrainState, Mapping[str, Any]]] = {}
        self._managers = {
            kind: self._open(kind)
            for kind in self._keep
            if writes and (not read_only or (directory / kind).is_dir())
        }

    def _open(self, kind: str) -> ocp.CheckpointManager:
        folder = (self.directory / kind).absolute()
        if not self._read_only:
            folder.mkdir(parents=True, exist_ok=True)
        with _without_read_only_warnings():
            return self._manager(folder, kind)

    def _manager(self, folder: Path, kind: str) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            folder,
            item_names=("state", "record"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if self._read_only else self._keep[kind],
                create=False,
                read_only=self._read_only,
                cleanup_tmp_directories=not self._read_only,
                multiprocessing_options=_alone(),
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=lambda: checksums.list_files(folder)
                ),
            ),
        )

    def save(self, kind: str, state: TrainState, record: Mapping[str, Any]) -> None:
        """Starts to save a host state as ``last`` or ``best``; returns before it is written.

        If the state cannot be written, a warning is logged, now or at the next call.

        Args:
          kind: ``last`` or ``best``; another kind is ignored.
          state: the state of the run, on the host.
          record: the JSON content that is stored with the state.
        """
        if kind not in self._managers:
            return
        self._unwritten.pop(kind, None)
        self._write(kind, state, record)
        for other in self._managers.keys() - {kind}:
            self._try_again(other)

    def unwritten(self, kind: str) -> TrainState | None:
        """Returns the state of a kind that could not be written and is newer than any on disk."""
        return self._unwritten[kind][0] if kind in self._unwritten else None

    def _write(self, kind: str, state: TrainState, record: Mapping[str, Any]) -> None:
        self._writing[kind] = state, record
        plain = _plain(state)
        content = json.loads(json.dumps(dict(record)))
        content[_SUMS] = checksums.of_state(plain) | {"record": checksums.of_record(content)}
        try:
            # After a rollback a run may reach the same step again, with other values.
            if int(state.step) in self._managers[kind].all_steps():
                self._managers[kind].delete(int(state.step))
            self._managers[kind].save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(plain), record=ocp.args.JsonSave(content)
                ),
                force=True,
            )
        except Exception as error:  # Orbax and TensorStore raise many unrelated types.
            self._give_up(kind, error)

    def _try_again(self, kind: str) -> None:
        """Writes the state of a kind that could not be written before, if there is one."""
        manager = self._managers[kind]
        if manager.is_saving_in_progress():
            return
        try:
            manager.wait_until_finished()
        except Exception as error:  # Many unrelated types, as in _write.
            self._give_up(kind, error)
        if kind in self._unwritten:
            self._write(kind, *self._unwritten.pop(kind))

    def _give_up(self, kind: str, error: Exception) -> None:
        self._unwritten[kind] = self._writing[kind]
        reason = _reason(error)
        self._close(kind)  # A manager cannot be used after a failed save.
        self._managers[kind] = self._open(kind)
        step = self._managers[kind].latest_step()
        good = "there is none yet" if step is None else f"the last good one is of step {step}"
        _LOGGER.warning(
            "a checkpoint in %s could not be written (%s); %s, and training goes on",
            self.directory / kind,
            reason,
            good,
        )

    def latest_step(self, kind: str) -> int | None:
        """Returns the step of the newest checkpoint of a kind; None if there is none."""
        manager = self._managers.get(kind)
        return None if manager is None else manager.latest_step()

    def drop_newer(self, kind: str, step: int) -> None:
        """Deletes checkpoints of a kind after ``step``; a run that went back writes them again."""
        manager = self._managers[kind]
        for newer in [saved for saved in manager.all_steps() if saved > step]:
            manager.delete(newer)

    def recover(
        self, template: TrainState, record: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the newest undamaged checkpoint; moves damaged ones away with a warning.

        Args:
          template: a state of the same run.
          record: as :meth:`restore` takes it.

        Returns:
          ``(state, record)``; None if there is no checkpoint at all.

        Raises:
          CheckpointError: if the checkpoint belongs to another network, or all are damaged.
        """
        damaged = ""
        # The best checkpoint is a full state too, but older than the last one.
        for kind in ("last", "best"):
            while (step := self.latest_step(kind)) is not None:
                try:
                    return self.restore(kind, template, record)
                except DamagedError as error:
                    damaged = f"{error}; it was moved to {self._put_aside(kind, step)}"
                    _LOGGER.warning("%s", damaged)
        if damaged:
            raise CheckpointError(
                f"{damaged}, and {self.directory} has no other: delete that directory to train "
                "this run from its start"
            )
        return None

    def put_aside_damaged(self, kind: str) -> bool:
        """Moves the newest checkpoint of a kind away if it is damaged; returns whether it was."""
        step = self.latest_step(kind)
        if step is None:
            return False
        try:
            self.read(kind)
        except DamagedError as error:
            _LOGGER.warning("%s; it was moved to %s", error, self._put_aside(kind, step))
            return True
        return False

    def _put_aside(self, kind: str, step: int) -> Path:
        folder = self.directory / "damaged"
        folder.mkdir(exist_ok=True)
        number = 0
        while (target := folder / f"{kind}-{step}{f'-{number}' if number else ''}").exists():
            number += 1
        (self.directory / kind / str(step)).rename(target)
        self._managers[kind].reload()
        return target

    def _record(self, kind: str) -> dict[str, Any]:
        """The JSON record of the newest checkpoint of a kind, after comparing it to its sum."""
        record = self._read(kind, record=ocp.args.JsonRestore())["record"]
        sums = record.pop(_SUMS, {}) if isinstance(record, dict) else {}
        if not isinstance(sums, dict) or sums.get("record") != checksums.of_record(record):
            raise DamagedError(f"{self._path(kind)} is damaged: its record differs from its sum")
        return record | {_SUMS: sums}

    def restore(
        self, kind: str, template: TrainState, record: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest checkpoint of a kind, as host arrays shaped like ``template``.

        Args:
          kind: ``last`` or ``best``.
          template: a state of the same run.
          record: what the checkpoint must belong to; ``network``, ``num_classes`` and
            ``student_widths`` are compared.

        Raises:
          CheckpointError: if the checkpoint belongs to another network.
          DamagedError: if it cannot be read or differs from its checksums.
        """
        self._check_files(kind)
        stored = self._record(kind)
        for field in ("network", "num_classes", "student_widths"):
            if stored.get(field) != record[field]:
                raise CheckpointError(
                    f"{self._path(kind)} is a checkpoint of another network: its {field} is "
                    f"{stored.get(field)}, expected {record[field]}"
                )
        return _rebuilt(self._state(kind, stored[_SUMS], _plain(template)), template), stored

    def read(self, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the record of the newest checkpoint of a kind, and its variables.

        Returns:
          The JSON record; ``params`` and ``batch_stats`` as host arrays.

        Raises:
          DamagedError: if it cannot be read or differs from its checksums.
        """
        self._check_files(kind)
        record = self._record(kind)
        plain = self._state(kind, record[_SUMS])
        return record, {name: plain[name] for name in ("params", "batch_stats")}

    def _state(self, kind: str, sums: Mapping[str, str], template: Any = None) -> Any:
        """Returns the state in the form of :func:`_plain`, after comparing it to its checksums."""
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype), template
        )
        state = ocp.args.StandardRestore() if template is None else ocp.args.StandardRestore(shapes)
        plain = jax.tree.map(np.asarray, self._read(kind, state=state)["state"])
        wrong = [
            name for name, found in checksums.of_state(plain).items() if sums.get(name) != found
        ]
        if wrong:
            raise DamagedError(
                f"{self._path(kind)} is damaged: {', '.join(wrong)} differ from their checksums"
            )
        return plain

    def _check_files(self, kind: str) -> None:
        if damage := checksums.find_damage(self._path(kind)):
            raise DamagedError(damage)

    def _path(self, kind: str) -> Path:
        return self.directory / kind / str(self.latest_step(kind))

    def _read(self, kind: str, **items: Any) -> Any:
        try:
            return self._managers[kind].restore(
                self.latest_step(kind), args=ocp.args.Composite(**items)
            )
        except Exception as error:  # Orbax raises many unrelated types for damaged files.
            raise DamagedError(
                f"{self._path(kind)} cannot be read: {_reason(error)[:300]}"
            ) from error

    def wait(self) -> None:
        """Waits until all saves are on disk.

        A failed save is tried once more. If it fails again, it is given up with a warning.
        """
        for kind in self._managers:
            self._finish(kind)
            if kind in self._unwritten:
                self._write(kind, *self._unwritten.pop(kind))
                self._finish(kind)

    def _finish(self, kind: str) -> None:
        try:
            self._managers[kind].wait_until_finished()
        except Exception as error:  # Many unrelated types, as in _write.
            self._give_up(kind, error)

    def close(self) -> None:
        """Waits for saves and ends the background threads."""
        self.wait()
        for kind in self._managers:
            self._close(kind)

    def _close(self, kind: str) -> None:
        try:
            self._managers[kind].close()
        except Exception as error:  # The manager may raise an earlier error again.
            _LOGGER.debug("%s", error)


def _reason(error: Exception) -> str:
    """Returns the first line of an error, without TensorStore's description of the array."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.split(" [tensorstore_spec=")[0]


def _alone() -> ocp.options.MultiprocessingOptions:
    """Returns options with which Orbax waits for no other process: only one keeps checkpoints."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )


def _plain(state: TrainState) -> Any:
    """Returns the state as dicts of arrays.

    Optimiser states are nested named tuples, so they are saved as a numbered list of leaves.
    """
    plain = {
        "step": np.asarray(state.step),
        "key": np.asarray(state.key),
        "params": state.params,
        "batch_stats": state.batch_stats,
        "optimizer_state": _listed(state.optimizer_state),
    }
    memory = _listed(state.memory)
    return {**plain, "memory": memory} if memory else plain


def _listed(tree: Any) -> dict[str, Any]:
    return {f"{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}


def _rebuilt(plain: Any, template: TrainState) -> TrainState:
    def rebuilt(part: str) -> Any:
        numbered = {int(number): leaf for number, leaf in plain.get(part, {}).items()}
        leaves = [numbered[number] for number in sorted(numbered)]
        return jax.tree.unflatten(jax.tree.structure(getattr(template, part)), leaves)

    return TrainState(
        step=plain["step"],
        key=plain["key"],
        params=plain["params"],
        batch_stats=plain["batch_stats"],
        optimizer_state=rebuilt("optimizer_state"),
        memory=rebuilt("memory"),
    )

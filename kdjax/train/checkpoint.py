"""Checkpoints: Orbax, atomic, asynchronous; the latest and the best apart.

A checkpoint is the unreplicated state with a JSON record of what it belongs to (network, width
vectors, configuration, step), so that it can be rebuilt from itself alone.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kdjax.train.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


class Checkpoints:
    """The checkpoints of one run: ``last/<step>`` and ``best/<step>`` under ``directory``."""

    def __init__(self, directory: Path, keep: int = 2, *, read_only: bool = False):
        """Opens the directory, creating it unless ``read_only``; ``keep`` latest steps stay."""
        # Orbax reports every barrier of a save, and warns that what is opened read-only is so.
        logging.getLogger("absl").setLevel(logging.ERROR if read_only else logging.WARNING)
        self.directory = directory
        self._managers = {
            kind: ocp.CheckpointManager(
                (directory / kind).absolute(),
                item_names=("state", "record"),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=None if read_only else count,
                    create=not read_only,
                    read_only=read_only,
                    cleanup_tmp_directories=not read_only,
                ),
            )
            for kind, count in (("last", keep), ("best", 1))
            if not read_only or (directory / kind).is_dir()
        }

    def save(self, kind: str, state: TrainState, record: Mapping[str, Any]) -> None:
        """Starts to save a host state as ``last`` or ``best``; returns before it is written."""
        self._managers[kind].save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_plain(state)), record=ocp.args.JsonSave(dict(record))
            ),
            force=True,
        )

    def latest_step(self, kind: str) -> int | None:
        """The step of the newest checkpoint of a kind, if there is one."""
        manager = self._managers.get(kind)
        return None if manager is None else manager.latest_step()

    def drop_newer(self, kind: str, step: int) -> None:
        """Deletes checkpoints of a kind past ``step``: a run that went back makes them anew."""
        manager = self._managers[kind]
        for newer in [saved for saved in manager.all_steps() if saved > step]:
            manager.delete(newer)

    def record(self, kind: str) -> dict[str, Any]:
        """The JSON record of the newest checkpoint of a kind."""
        return self._read(kind, record=ocp.args.JsonRestore())["record"]

    def restore(
        self, kind: str, template: TrainState, record: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint of a kind, as host arrays shaped like ``template``.

        Args:
          kind: ``last`` or ``best``.
          template: a state of the same run.
          record: what the checkpoint must belong to; ``network``, ``num_classes`` and
            ``student_widths`` are compared.

        Raises:
          CheckpointError: if it is another network's, or cannot be read.
        """
        stored = self.record(kind)
        for field in ("network", "num_classes", "student_widths"):
            if stored.get(field) != record[field]:
                raise CheckpointError(
                    f"{self._path(kind)} is a checkpoint of another network: its {field} is "
                    f"{stored.get(field)}, expected {record[field]}"
                )
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype),
            _plain(template),
        )
        restored = self._read(kind, state=ocp.args.StandardRestore(shapes))["state"]
        return _rebuilt(jax.tree.map(np.asarray, restored), template), stored

    def variables(self, kind: str) -> dict[str, Any]:
        """``params`` and ``batch_stats`` of the newest checkpoint of a kind, as host arrays.

        Raises:
          CheckpointError: if it cannot be read.
        """
        restored = self._read(kind, state=ocp.args.StandardRestore())["state"]
        return jax.tree.map(
            np.asarray, {name: restored[name] for name in ("params", "batch_stats")}
        )

    def _path(self, kind: str) -> Path:
        return self.directory / kind / str(self.latest_step(kind))

    def _read(self, kind: str, **items: Any) -> Any:
        try:
            return self._managers[kind].restore(
                self.latest_step(kind), args=ocp.args.Composite(**items)
            )
        except Exception as error:  # Orbax raises many unrelated types for damaged files.
            raise CheckpointError(f"{self._path(kind)} cannot be read: {error}") from error

    def wait(self) -> None:
        """Returns when all saves are on disk."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and ends the background threads."""
        for manager in self._managers.values():
            manager.close()


def _plain(state: TrainState) -> Any:
    """The state as dicts of arrays: optimiser states are nested named tuples, saved as a list."""
    return {
        "step": np.asarray(state.step),
        "key": np.asarray(state.key),
        "params": state.params,
        "batch_stats": state.batch_stats,
        "optimizer_state": {
            f"{index:04d}": leaf
            for index, leaf in enumerate(jax.tree.leaves(state.optimizer_state))
        },
    }


def _rebuilt(plain: Any, template: TrainState) -> TrainState:
    optimizer_leaves = [leaf for _, leaf in sorted(plain["optimizer_state"].items())]
    structure = jax.tree.structure(template.optimizer_state)
    return TrainState(
        step=plain["step"],
        key=plain["key"],
        params=plain["params"],
        batch_stats=plain["batch_stats"],
        optimizer_state=jax.tree.unflatten(structure, optimizer_leaves),
    )

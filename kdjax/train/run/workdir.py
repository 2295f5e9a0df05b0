"""The directory of an experiment: what is in it, and whether it may be written."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from kdjax import atomic
from kdjax import config as configuration
from kdjax.train.run import network_files, own_terms

# Files that say what a run began with, in addition to its configuration.
_MARKERS = ("data.json", "latency.json", "teacher.json", own_terms.FILE)


class WorkdirError(ValueError):
    """A workdir that must not or cannot be used; the message says why and what to do."""


def check(path: Path, config: ml_collections.ConfigDict) -> None:
    """Checks that an experiment with ``config`` may start or go on in ``path``.

    Raises:
      WorkdirError: if the directory holds something else, or an experiment whose configuration
        differs in a field that matters; or if it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"workdir {path} is a file: expected a directory")
    stored_path = path / "config.json"
    if path.is_dir() and not stored_path.exists() and _foreign(path):
        raise WorkdirError(
            f"workdir {path} is not empty and holds no kdjax run: choose another --workdir"
        )
    if stored_path.exists():
        finished = (path / "results.json").exists()
        stored = read_config(path, all_terms=True)
        changes = configuration.forbidden_changes(stored, config, finished=finished)
        changes += network_files.changed(path, config) + own_terms.changed(path, config)
        if changes:
            raise WorkdirError(
                f"workdir {path} holds a run with another configuration:\n  "
                + "\n  ".join(changes)
                + "\nGo on with the old values, or choose another --workdir"
            )
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise WorkdirError(f"workdir {path} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WorkdirError(f"workdir {path} cannot be written: no permission in {existing}")


@contextlib.contextmanager
def claimed(path: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Locks a workdir for one process and checks that the experiment may start or go on in it.

    ``config.json`` is written last. If it is missing, an earlier start died, and the files in which
    it noted what it began with are deleted.

    Args:
      path: the workdir.
      config: the configuration of the experiment.

    Raises:
      WorkdirError: as :func:`locked` and :func:`check` do.
    """
    with locked(path):
        check(path, config)
        if not (path / "config.json").exists():
            for name in _MARKERS:
                (path / name).unlink(missing_ok=True)
        yield


def check_widths(path: Path, student_widths: Sequence[Mapping[str, int]]) -> None:
    """Raises WorkdirError if the directory holds a run of students with other widths."""
    if not (path / "config.json").exists():
        return
    if read_student_widths(path) != [dict(vector) for vector in student_widths]:
        raise WorkdirError(
            f"workdir {path} holds a run of students with other widths ({path / 'widths.json'}): "
            "give it the same width files, or choose another --workdir"
        )


def record_once(path: Path, name: str, content: Mapping[str, Any], changed: str) -> None:
    """Records at the first start what an experiment depends on; it must stay the same.

    Args:
      path: the workdir, already locked.
      name: the name of the JSON file in the workdir.
      content: its content.
      changed: what the workdir holds, for the error, and what to do.

    Raises:
      WorkdirError: if the content has changed since.
    """
    stored = atomic.read_json(path / name)
    if stored and stored != content:
        raise WorkdirError(f"workdir {path} holds {changed}, or choose another --workdir")
    atomic.write_json(path / name, content)


def record_data(path: Path, content: Mapping[str, Any]) -> None:
    """Records at the first start which data an experiment trains on; it must stay the same.

    Args:
      path: the workdir, already locked.
      content: the content of ``data.json``, with the ``fingerprint`` of the dataset.

    Raises:
      WorkdirError: if the data has changed since the experiment began.
    """
    marker = path / "data.json"
    check_same_data(path, content["fingerprint"])
    if not marker.exists():
        atomic.write_json(marker, content)


def check_same_data(path: Path, fingerprint: str) -> None:
    """Raises WorkdirError if an experiment was trained on data of another fingerprint."""
    stored = atomic.read_json(path / "data.json").get("fingerprint")
    if stored is None and (path / "data.json").exists():
        raise WorkdirError(f"{path / 'data.json'} cannot be read: it holds no fingerprint")
    if stored is not None and stored != fingerprint:
        raise WorkdirError(
            f"workdir {path} holds a run on other data: the images, labels or splits have changed "
            f"since it began (fingerprint {str(stored)[:12]} then, {fingerprint[:12]} now); put "
            "the data back, or choose another --workdir"
        )


def _foreign(path: Path) -> bool:
    """Whether a workdir without ``config.json`` holds anything that kdjax does not write there."""
    ours = {".lock", "widths.json", network_files.FOLDER, *_MARKERS}
    return any(
        entry.name not in ours and not (entry.name.startswith(".") and entry.suffix == ".tmp")
        for entry in path.iterdir()
    )


def read_config(path: Path, *, all_terms: bool = False) -> ml_collections.ConfigDict:
    """The configuration an experiment was started with.

    Args:
      path: the workdir.
      all_terms: whether loss terms that a config file registered have to be registered now too.
        They are not needed to use what was trained.

    Raises:
      WorkdirError: if the directory holds no run.
    """
    try:
        text = (path / "config.json").read_text()
        return configuration.from_json(text, all_terms=all_terms)
    except FileNotFoundError:
        raise WorkdirError(f"workdir {path} holds no kdjax run: it has no config.json") from None
    except (configuration.ConfigError, UnicodeDecodeError) as error:
        raise WorkdirError(f"{path / 'config.json'}: {error}") from None


def read_student_widths(path: Path) -> list[dict[str, int]]:
    """The students' width vectors, the pivot's first.

    Raises:
      WorkdirError: if ``widths.json`` is missing or is not what :func:`create` writes.
    """
    try:
        content = json.loads((path / "widths.json").read_text())
        return [dict(student) for student in content["students"]]
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise WorkdirError(f"{path / 'widths.json'} cannot be read: {error}") from None


def create(
    path: Path, config: ml_collections.ConfigDict, student_widths: Sequence[Mapping[str, int]] = ()
) -> None:
    """Writes ``config.json`` and the files that have to be there before it.

    These are copies of user-written networks, digests of user-written loss terms and, if students
    are given, ``widths.json``.

    Args:
      path: the workdir; it is made if it does not exist.
      config: the configuration of the run.
      student_widths: one width vector per student, the pivot's first; empty: no ``widths.json``.
    """
    path.mkdir(parents=True, exist_ok=True)
    # config.json is written last: if it exists, the directory is complete.
    if student_widths:
        students = {"students": [dict(widths) for widths in student_widths]}
        text = json.dumps(students, indent=1, sort_keys=True) + "\n"
        atomic.write(path / "widths.json", text)
    network_files.keep(path, config)
    own_terms.keep(path, config)
    atomic.write(path / "config.json", configuration.to_json(config))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks the directory for one process; the lock is gone when the process ends, in any way.

    Raises:
      WorkdirError: if another process holds the lock, or the directory cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".lock").touch()
    except OSError as error:
        raise WorkdirError(f"workdir {path} cannot be written: {error.strerror}") from None
    with open(path / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(
                f"workdir {path} is in use by another process: wait for it, or choose another"
            ) from None
        yield

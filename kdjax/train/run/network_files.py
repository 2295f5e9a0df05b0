"""The files of networks that a user wrote, of which a workdir keeps copies."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import ml_collections

from kdjax import atomic
from kdjax import config as configuration
from kdjax.models import own

FOLDER = "networks"


def stored(path: Path, name: str) -> str:
    """The name under which :func:`kdjax.models.create` finds the network that was trained.

    Args:
      path: the workdir.
      name: of the network in its configuration.

    Returns:
      ``name``; that of the copy if the file has gone or changed.
    """
    if not own.is_file(name):
        return name
    (file, function), copy = name.rsplit(":", 1), _copy(path, name)
    if not copy.exists() or (Path(file).is_file() and _equal(Path(file), copy)):
        return name
    return f"{copy}:{function}"


def keep(path: Path, config: ml_collections.ConfigDict) -> None:
    """Copies the files of a configuration's networks into a workdir, when its run begins.

    Copies without a ``config.json`` are of a start that died; the file may have changed since.
    """
    for file, copy in _files(path, config):
        if not copy.exists() or not (path / "config.json").exists():
            atomic.write(copy, file.read_bytes())


def changed(path: Path, config: ml_collections.ConfigDict) -> list[str]:
    """One line for each network whose file is another one than when the run began."""
    return [
        f"{file} has changed since the run began: {copy} is as it was"
        for file, copy in _files(path, config)
        if copy.exists() and file.exists() and not _equal(file, copy)
    ]


def digests(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Name of each of a configuration's networks that is a file -> digest of that file."""
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for file, _ in _files(Path(), config)
        if file.is_file()
    }


def _equal(file: Path, copy: Path) -> bool:
    return file.read_bytes() == copy.read_bytes()


def _files(path: Path, config: ml_collections.ConfigDict) -> Iterator[tuple[Path, Path]]:
    """(a network's file, its copy in the workdir)."""
    values = dict(configuration.flatten(config))
    names = [values["network"]]
    if not values.get("teacher.workdir"):  # Else the teacher is what was trained there.
        names.append(values.get("teacher.network", ""))
    for name in names:
        if own.is_file(name):
            yield Path(name.rpartition(":")[0]), _copy(path, name)


def _copy(path: Path, name: str) -> Path:
    file = Path(name.rpartition(":")[0])
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return path / FOLDER / f"{file.stem}-{digest}.py"

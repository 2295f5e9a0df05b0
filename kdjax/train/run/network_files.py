"""The files of user-written networks: a workdir keeps copies of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import ml_collections

from kdjax import atomic
from kdjax import config as configuration
from kdjax.models import own

FOLDER = "networks"


def loadable(path: Path, name: str) -> str:
    """The name under which :func:`kdjax.models.create` finds the network that was trained.

    Args:
      path: the workdir.
      name: the network's name in the configuration of the workdir.

    Returns:
      ``name``, or the name of the copy if the file is missing or has changed.
    """
    if not own.is_file(name):
        return name
    file, copy = own.file_of(name), _copy(path, name)
    if not copy.exists() or (file.is_file() and _equal(file, copy)):
        return name
    return f"{copy}:{name.rpartition(':')[2]}"


def keep(path: Path, config: ml_collections.ConfigDict) -> None:
    """Copies the files of a configuration's networks into a workdir, when its run begins.

    They are copied as they were when the networks were made, even if they have changed since.
    Copies without a ``config.json`` come from a start that died. They are written again, because
    the files may have changed since then.
    """
    for name in _names(config):
        copy = _copy(path, name)
        if not copy.exists() or not (path / "config.json").exists():
            atomic.write(copy, own.source_of(name))


def changed(path: Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns one line for each network whose file has changed since the run began."""
    return [
        f"{file} has changed since the run began: {copy} holds the original"
        for file, copy in _files(path, config)
        if copy.exists() and file.exists() and not _equal(file, copy)
    ]


def digests(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns path -> digest of the files of a configuration's user-written networks."""
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for file, _ in _files(Path(), config)
        if file.is_file()
    }


def _equal(file: Path, copy: Path) -> bool:
    return file.read_bytes() == copy.read_bytes()


def _files(path: Path, config: ml_collections.ConfigDict) -> Iterator[tuple[Path, Path]]:
    """Yields (file, its copy in the workdir) for each user-written network."""
    for name in _names(config):
        yield own.file_of(name), _copy(path, name)


def _names(config: ml_collections.ConfigDict) -> list[str]:
    """The names of a configuration's user-written networks."""
    values = dict(configuration.flatten(config))
    names = [values["network"]]
    if not values.get("teacher.workdir"):  # Otherwise the teacher is loaded from that workdir.
        names.append(values.get("teacher.network", ""))
    return [name for name in names if own.is_file(name)]


def _copy(path: Path, name: str) -> Path:
    file = own.file_of(name)
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return path / FOLDER / f"{file.stem}-{digest}.py"

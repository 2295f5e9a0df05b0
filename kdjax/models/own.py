"""A network that a user wrote: a Python file and a function in it."""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kdjax.models.architecture import Architecture

_SOURCES: dict[Path, bytes] = {}  # Absolute path of a file -> what it held when it was last run.

_FORM = re.compile(r"(?P<file>.+\.py):(?P<function>[^:]*)")


def is_file(name: str) -> bool:
    """Whether a name has the form ``file.py:function``."""
    return _FORM.fullmatch(name) is not None


def file_of(name: str) -> Path:
    """The file of a network with the name ``file.py:function``."""
    return Path(os.path.expanduser(name.rpartition(":")[0]))


def source_of(name: str) -> bytes:
    """What the file of a network held when it was last run here; what it holds, if it was not."""
    file = file_of(name)
    source = _SOURCES.get(file.absolute())
    return file.read_bytes() if source is None else source


def create(name: str, num_classes: int) -> Architecture:
    """The architecture that a user's function makes.

    Args:
      name: ``file.py:function``, the file relative to the working directory.
      num_classes: the argument of the function.

    Raises:
      ValueError: if there is no such file or function, the file or function fails, or the returned
        architecture is not valid.
    """
    found = _FORM.fullmatch(name)
    assert found is not None
    module = _load(file_of(name).absolute(), name)
    function = getattr(module, found["function"], None)
    if not callable(function):
        raise ValueError(
            f"{name!r}: {found['file']} has no function {found['function']!r}, which takes the "
            "number of classes and returns an Architecture"
        )
    return checked(name, function, num_classes)


def checked(name: str, function: Callable[[int], Any], num_classes: int) -> Architecture:
    """The architecture that a function makes, checked, with the name ``name``.

    Args:
      name: the name by which :func:`kdjax.models.create` finds it again.
      function: takes a number of classes.
      num_classes: the number of classes.

    Raises:
      ValueError: if the function fails, or its result is not an Architecture with ``num_classes``
        classes and valid widths.
    """
    try:
        architecture = function(num_classes)
    except ValueError:
        raise
    except Exception as error:  # A user's function may raise anything.
        raise ValueError(f"{name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(architecture, Architecture):
        raise ValueError(
            f"{name!r} returned a {type(architecture).__name__}: expected a "
            "kdjax.models.Architecture"
        )
    if architecture.num_classes != num_classes:
        raise ValueError(
            f"{name!r} returned a network of {architecture.num_classes} classes: expected "
            f"{num_classes}, with which it was called"
        )
    if unknown := [group for group in architecture.shared if group not in architecture.widths]:
        raise ValueError(
            f"{name!r} shares {unknown[0]!r}, which is not one of its widths: "
            f"{', '.join(architecture.widths)}"
        )
    architecture.check(architecture.widths)
    return dataclasses.replace(architecture, name=name)


def _load(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{name!r}: there is no file {path}")
    _SOURCES[path] = content = path.read_bytes()
    return _run(path, content, name)


@functools.cache
def _run(path: Path, content: bytes, name: str) -> ModuleType:
    """Runs a file once, so that its classes stay the same objects until the file changes.

    Args:
      path: the path of the file.
      content: what the file holds.
      name: the name of the network, for error messages.
    """
    digest = hashlib.sha256(bytes(path) + content).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{digest}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dataclasses look up names there.
    try:
        # Not by the loader, which may take the bytecode of a file that was edited just before.
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(f"{name!r} cannot be run: {type(error).__name__}: {error}") from error
    return module

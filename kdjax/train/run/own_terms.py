"""The loss terms that a user wrote: a run goes on with the ones it began with."""

import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import ml_collections

from kdjax import atomic
from kdjax import config as configuration

FILE = "terms.json"

_PLAIN = (bool, int, float, str, tuple, type(None))  # Values whose text says what they are.


def digests(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Name of each own term that is switched on -> digest of its source.

    The source is that of the term's function, and of every function and class of the same file
    that it uses, with the plain values that these name. A term whose source cannot be read, such as
    one typed into an interpreter, has none.
    """
    found = {}
    for name, weight in config.weights.items():
        term = configuration.TERMS[name]
        function = term.parts or term.loss
        if weight > 0 and callable(function):
            source = "\n".join(sorted(_sources(function, set())))
            if source:
                found[name] = hashlib.sha256(source.encode()).hexdigest()[:16]
    return found


def keep(path: Path, config: ml_collections.ConfigDict) -> None:
    """Notes in a workdir which own terms its run begins with."""
    if (path / "config.json").exists():
        return
    if found := digests(config):
        atomic.write_json(path / FILE, found)
    else:  # A start that died may have left one.
        (path / FILE).unlink(missing_ok=True)


def changed(path: Path, config: ml_collections.ConfigDict) -> list[str]:
    """One line for each own term whose source is another one than when the run began."""
    before, now = atomic.read_json(path / FILE), digests(config)
    return [
        f"the loss of config.weights.{name} has changed since the run began"
        for name in before.keys() & now.keys()
        if before[name] != now[name]
    ]


def _sources(used: Any, seen: set[int]) -> Iterator[str]:
    """Sources of a function or class and of what it uses of its own file; plain values named."""
    used = inspect.unwrap(used)
    if id(used) in seen:
        return
    seen.add(id(used))
    if inspect.isclass(used):
        for name, member in vars(used).items():
            if callable(member):
                yield from _sources(member, seen)
            elif isinstance(member, _PLAIN) and not name.startswith("__"):
                yield f"{used.__name__}.{name} = {member!r}"
        for base in used.__bases__:
            if base.__module__ == used.__module__:
                yield from _sources(base, seen)
    if not inspect.isfunction(used):
        return
    try:
        yield inspect.getsource(used)
    except OSError:  # What a dataclass generates, or was typed into an interpreter.
        return
    for name in _names(used.__code__):
        value = used.__globals__.get(name)
        if name in used.__globals__ and isinstance(value, _PLAIN):
            yield f"{name} = {value!r}"
        elif callable(value) and getattr(value, "__module__", None) == used.__module__:
            yield from _sources(value, seen)


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function uses, those of functions inside it too."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _names(value)

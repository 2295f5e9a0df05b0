"""User-written loss terms: a run must go on with the same terms that it began with."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import atomic
from kdjax import config as configuration
from kdjax.config.tasks import BUILT_IN

FILE = "terms.json"

_PLAIN = (bool, int, float, complex, str, bytes, type(None))  # Their repr describes them fully.
_SOURCE = "source: "


def digests(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns name -> :func:`digest` of the user-written terms that are on and have a digest."""
    on = {name: configuration.TERMS[name] for name, weight in config.weights.items() if weight > 0}
    own = {name: term.parts or term.loss for name, term in on.items()}
    found = {name: digest(loss) for name, loss in own.items() if callable(loss)}
    return {name: text for name, text in found.items() if text}


def names(config: ml_collections.ConfigDict) -> list[str]:
    """The terms that are on and that a program or a config file has registered."""
    weights = config.weights.items()
    return [name for name, weight in weights if weight > 0 and name not in BUILT_IN]


def digest(loss: Callable[..., Any]) -> str:
    """Returns a digest of what a loss computes, the same in every process.

    It covers the source of the function, and of every function and class of the same file that it
    uses. It also covers the constants that these use: numbers, strings, arrays, and tuples, lists
    and dicts of them, and objects of the file's own classes. A constant may be a global name of the
    file, a name of an enclosing function, or an argument of a ``functools.partial``. The digest is
    empty if the source cannot be read, for example because it was typed into an interpreter.
    """
    lines = list(_described(loss, getattr(loss, "__module__", ""), set()))
    if not any(line.startswith(_SOURCE) for line in lines):
        return ""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def keep(path: Path, config: ml_collections.ConfigDict) -> None:
    """Stores in a workdir the digests of the user-written terms that its run begins with."""
    found = digests(config)
    if found and not (path / "config.json").exists():
        atomic.write_json(path / FILE, found)


def changed(path: Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns one line for each user-written term whose loss has changed since the run began."""
    before, now = atomic.read_json(path / FILE), digests(config)
    return [
        f"the loss of config.weights.{name} has changed since the run began"
        for name in before.keys() & now.keys()
        if before[name] != now[name]
    ]


def _described(value: Any, module: str, seen: set[int]) -> Iterator[str]:
    """Yields lines that describe a value, the same in every process.

    Args:
      value: a function, a class, or a value that one of them uses.
      module: functions and classes of this module are described by their source; those of other
        modules by their name.
      seen: ids of the values already described, because functions may use each other.
    """
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(jnp.asarray(value))
        array = np.asarray(value)
        yield f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    elif isinstance(value, tuple | set | frozenset):
        rows = ["\n".join(_described(entry, module, seen)) for entry in value]
        yield from rows if isinstance(value, tuple) else sorted(rows)
    elif id(value) not in seen:
        seen.add(id(value))
        yield from _described_once(value, module, seen)


def _described_once(value: Any, module: str, seen: set[int]) -> Iterator[str]:
    """Yields the lines of a value that may contain itself, or be used in several places."""
    if isinstance(value, functools.partial):
        own = getattr(value.func, "__module__", module)
        for part in (value.func, value.args, value.keywords):
            yield from _described(part, own, seen)
    elif isinstance(value, list):
        yield from _described(tuple(value), module, seen)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from (f"{line}:" for line in _described(key, module, seen))
            yield from _described(entry, module, seen)
    elif inspect.isclass(value):
        yield from _class(value, module, seen)
    elif inspect.ismethod(value):
        yield from _described(value.__func__, module, seen)
        yield from _described(value.__self__, module, seen)
    elif isinstance(value, classmethod | staticmethod):
        yield from _described(value.__func__, module, seen)
    elif isinstance(value, property):
        yield from _described((value.fget, value.fset), module, seen)
    elif isinstance(value, functools.cached_property):
        yield from _described(value.func, module, seen)
    elif inspect.isfunction(function := inspect.unwrap(value) if callable(value) else value):
        yield from _function(function, module, seen)
    elif dataclasses.is_dataclass(value):
        yield from _described(type(value), module, seen)
        for field in dataclasses.fields(value):
            yield from _described(getattr(value, field.name, None), module, seen)
    elif type(value).__module__ == module:
        yield from _described(type(value), module, seen)
        yield from _described(getattr(value, "__dict__", {}), module, seen)
    else:
        yield _qualified_name(value if callable(value) else type(value))


def _class(used: type, module: str, seen: set[int]) -> Iterator[str]:
    yield _qualified_name(used)
    if used.__module__ != module:
        return
    for base in used.__bases__:
        yield from _described(base, module, seen)
    for name, member in vars(used).items():
        if inspect.isfunction(member) or not name.startswith("__"):
            yield f"{name} ="
            yield from _described(member, module, seen)


def _function(used: Any, module: str, seen: set[int]) -> Iterator[str]:
    if used.__module__ != module:
        yield _qualified_name(used)
        return
    try:
        yield _SOURCE + inspect.getsource(used)
    except OSError:  # The function was generated by a dataclass or typed into an interpreter.
        return
    for default in (used.__defaults__, used.__kwdefaults__):
        yield from _described(default, module, seen)
    for name, cell in zip(used.__code__.co_freevars, used.__closure__ or (), strict=True):
        yield f"{name} ="
        yield from _described(cell.cell_contents, module, seen)
    for name in sorted(set(_names_in_code(used.__code__))):
        if name in used.__globals__ and not inspect.ismodule(used.__globals__[name]):
            yield f"{name} ="
            yield from _described(used.__globals__[name], module, seen)


def _qualified_name(used: Any) -> str:
    return f"{getattr(used, '__module__', '')}.{getattr(used, '__qualname__', type(used).__name__)}"


def _names_in_code(code: CodeType) -> Iterator[str]:
    """Yields the names that a function uses, including the names in functions inside it."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _names_in_code(value)

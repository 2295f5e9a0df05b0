"""The table of fields of each task, and functions that need nothing but this table."""

import keyword
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import ml_collections

from kdjax.config import distill, search, training
from kdjax.config.fields import ConfigError, Field
from kdjax.config.names import nearest
from kdjax.config.terms import NO_MAPS, TERMS, Reads, Term, ramp_field, term_fields

Task = Literal["train", "search", "distill"]

BUILT_IN = tuple(TERMS)
# What else a step measures, or a line of metrics.jsonl says; no term may have such a name.
METRICS = {
    *("run", "kind", "step", "epoch", "learning_rate", "images_per_second"),
    *("loss", "accuracy", "ensemble_accuracy", "gradient_norm", "gate"),
    *("gradient_fault", "statistics_fault"),
    *("penalty", "penalty_to_loss"),  # Of a search; its other metrics have a slash in their names.
}
FIELDS = training.FIELDS
SEARCH_FIELDS = search.FIELDS
DISTILL_FIELDS = distill.FIELDS
_TABLES: dict[Task, dict[str, Field]] = {
    "train": FIELDS,
    "search": SEARCH_FIELDS,
    "distill": DISTILL_FIELDS,
}


def register_term(name: str, term: Term) -> None:
    """Adds a loss term and its fields to all commands; a config file may call this function.

    Args:
      name: the name of the term, as in ``--config.weights.<name>``.
      term: what it reads, its loss and its fields. It replaces a term that was registered under
        the same name, with its fields.

    Raises:
      ConfigError: if the name is not a Python name, or is taken by a built-in term, a metric or a
        field; if the term reads something unknown, has modules or a memory but reads neither maps
        nor embeddings, or has no loss; or if one of its fields is no :class:`kdjax.config.Field`.
    """
    fields = [field for table in _TABLES.values() for field in table]
    taken = set(BUILT_IN) | METRICS | _sections(*fields) - set(TERMS)
    is_name = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    if not is_name or name in taken:
        raise ConfigError(
            f"a term cannot be called {name!r}: that is not a Python name, or it is taken"
        )
    if term.reads not in (known := get_args(Reads)):
        raise ConfigError(
            f"term {name!r} reads {term.reads!r}: expected one of {', '.join(map(repr, known))}"
        )
    if term.parts and term.reads in NO_MAPS:
        raise ConfigError(
            f"term {name!r} has parts and reads {term.reads!r}: modules and memories are for terms "
            "that read maps or embeddings"
        )
    if wrong := [field for field, what in term.fields.items() if not isinstance(what, Field)]:
        raise ConfigError(
            f"term {name!r} has fields[{wrong[0]!r}] = {term.fields[wrong[0]]!r}: expected a "
            "kdjax.config.Field"
        )
    if not (term.loss or term.parts):
        raise ConfigError(f"term {name!r} has neither loss nor parts: give it one of them")
    TERMS[name] = term
    for table in _TABLES.values():  # Fields of a term that had this name before.
        for old in [field for field in table if field.startswith(f"{name}.")]:
            del table[old]
    FIELDS.update(term_fields({}, name) | ramp_field(name))
    SEARCH_FIELDS.update(term_fields({}, name) | ramp_field(name, search.SEARCH_RAMP))
    DISTILL_FIELDS.update(term_fields({}, name) | ramp_field(name))


def default() -> ml_collections.ConfigDict:
    """Returns the default of every field of `kdjax train`, for config files to start from."""
    return _default_of(FIELDS)


def search_default() -> ml_collections.ConfigDict:
    """Returns the default of every field of `kdjax search`, for config files to start from."""
    return _default_of(SEARCH_FIELDS)


def distill_default() -> ml_collections.ConfigDict:
    """Returns the default of every field of `kdjax distill`, for config files to start from."""
    return _default_of(DISTILL_FIELDS)


def default_of(task: Task) -> ml_collections.ConfigDict:
    """The default of every field of a task."""
    return _default_of(_TABLES[task])


def fields_of(task: Task) -> dict[str, Field]:
    """The table of a task."""
    return _TABLES[task]


def task_of(config: Any) -> Task:
    """Which task a configuration is for; works on dicts and ConfigDicts.

    A configuration with a ``search`` section is for `kdjax search`. Without it, one with a
    ``teacher`` section is for `kdjax distill`, and any other is for `kdjax train`.
    """
    sections: dict[str, Task] = {"search": "search", "teacher": "distill"}
    for section, found in sections.items():
        if section in config and hasattr(config[section], "items"):
            return found
    return "train"


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ``(dotted name, value)`` of every leaf; works on dicts and ConfigDicts."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def unknown_field(name: str, fields: Mapping[str, Field] = FIELDS) -> ConfigError:
    """The error for a field that is not in ``fields``; names the field that was probably meant."""
    tables = _TABLES.items()
    owners = [task for task, table in tables if name in table and name not in fields]
    # A field that no command has, in a section that only other commands have.
    if not _sections(name) & _sections(*fields):
        owners += [task for task, table in tables if _sections(name) & _sections(*table)]
    if owners:
        return ConfigError(f"unknown field config.{name}: it belongs to `kdjax {owners[0]}`")
    if inside := [known for known in fields if known.startswith(f"{name}.")]:
        return ConfigError(
            f"config.{name} is a section: set one of {', '.join(f'config.{i}' for i in inside)}"
        )
    near = nearest(name, fields)
    hint = f": did you mean config.{near}?" if near else ""
    return ConfigError(f"unknown field config.{name}{hint}")


def _sections(*names: str) -> set[str]:
    return {name.split(".")[0] for name in names}


def _default_of(fields: Mapping[str, Field]) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    for name, field in fields.items():
        *parents, leaf = name.split(".")
        node = config
        for parent in parents:
            if parent not in node:
                node[parent] = ml_collections.ConfigDict()
            node = node[parent]
        node[leaf] = field.default
    return config.lock()

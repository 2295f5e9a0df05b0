"""Configurations as JSON on disk, and the changes that a resumed run may make."""

import json
from typing import Any

import ml_collections

from kdjax.config.checks import validate
from kdjax.config.fields import ConfigError
from kdjax.config.tasks import (
    Task,
    default_of,
    fields_of,
    flatten,
    task_of,
    unknown_field,
)

_LARGEST = 1 << 20  # Characters: far more than any configuration has, far fewer than would hurt.


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns a configuration as indented JSON, with fields sorted by name."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, *, all_terms: bool = True) -> ml_collections.ConfigDict:
    """Reads and validates a configuration; the text shows which task it is for.

    Args:
      text: JSON as :func:`to_json` writes it.
      all_terms: whether a loss term that is not registered is an error; otherwise its fields are
        left out.

    Raises:
      ConfigError: if the text is not a configuration.
    """
    if len(text) > _LARGEST:
        raise ConfigError(f"a configuration has at most {_LARGEST:,} characters, not {len(text):,}")
    try:
        content = json.loads(text)
        stored = dict(flatten(content))
    except (json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"not a configuration in JSON: {error}") from None
    config = default_of(task_of(content))
    fields = fields_of(task_of(config))
    unregistered = {
        name.removeprefix("weights.")
        for name in stored
        if name.startswith("weights.") and name not in fields
    }
    for name, value in stored.items():
        if name not in fields:
            section, _, last = name.partition(".")
            term = last if section in ("weights", "weight_ramp") else section
            if term not in unregistered:
                raise unknown_field(name, fields)
            if all_terms:
                raise ConfigError(
                    f"config.{name}: no loss term {term!r} is registered, and JSON cannot register "
                    "one: name the config file that does, with --config, in place of config.json"
                )
            continue
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.{name} is {value!r}: {error}") from None
    validate(config, learns=all_terms)
    return config


def forbidden_changes(
    stored: ml_collections.ConfigDict,
    wanted: ml_collections.ConfigDict,
    *,
    finished: bool = False,
) -> list[str]:
    """Why a run started with ``stored`` cannot be continued with ``wanted``.

    Args:
      stored: the configuration that the run was started with.
      wanted: the configuration to continue with. Seeds may be added at any time.
      finished: whether the test set has been read; if so, the run may not become longer.

    Returns:
      One line for each field that differs but must not; a single line if the two are
      configurations of different commands; empty if the run may continue.
    """
    if task_of(stored) != task_of(wanted):
        return [
            f"the stored configuration is of `kdjax {task_of(stored)}`, the new one of "
            f"`kdjax {task_of(wanted)}`"
        ]
    fields = fields_of(task_of(wanted))
    before, after = dict(flatten(stored)), dict(flatten(wanted))
    lines = [
        f"config.{name} was {before.get(name)!r}, is {after[name]!r}"
        for name in after
        if before.get(name) != after[name] and not fields[name].resumable
    ]
    return (
        lines
        + _forbidden_seeds(before, after, task_of(wanted))
        + _forbidden_epochs(before, after, finished)
    )


def _forbidden_seeds(before: dict[str, Any], after: dict[str, Any], task: Task) -> list[str]:
    old, new = before["seeds"], after["seeds"]
    line = f"config.seeds was {old!r}, is {new!r}: "
    if not set(old) <= set(new):
        return [f"{line}seeds may only be added"]
    whose = {"search": "teacher and search", "distill": "the teacher"}
    if task in whose and old[0] != new[0]:
        return [f"{line}the first one, of {whose[task]}, cannot change"]
    return []


def _forbidden_epochs(before: dict[str, Any], after: dict[str, Any], finished: bool) -> list[str]:
    old, new = before.get("epochs"), after.get("epochs")  # A search has no field of this name.
    if old is None or new is None or old == new:
        return []
    line = f"config.epochs was {old!r}, is {new!r}: "
    if finished:
        return [
            f"{line}the run is finished and its test set has been read; another length "
            "needs a new workdir"
        ]
    return [] if new > old else [f"{line}it may only grow"]

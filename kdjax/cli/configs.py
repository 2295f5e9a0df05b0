"""Reads configurations from files and overrides; errors name the field."""

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections

from kdjax import config as configuration
from kdjax.config.fields import wrong_type

_FLAGS = ("config", "workdir", "coordinator", "num_processes", "process_id")


def read_config(
    path: str, overrides: Sequence[str], task: configuration.Task = "train"
) -> ml_collections.ConfigDict:
    """The configuration of a file with overrides applied.

    Args:
      path: ``file.py`` or ``file.py:argument``, a Python file with a ``get_config`` function,
        which is run; or a workdir's ``config.json``. Empty: the recipe for the embedded digits. If
        an override names other data, that recipe does not fit, and every field starts from its
        default.
      overrides: ``--config.a.b=value`` (or the value as the next argument).
      task: ``train``, ``search`` or ``distill``.

    Raises:
      ConfigError: if the file cannot be used or is for another task, an argument is not an
        override, or a field does not exist, is missing in the file or has another type.
    """
    from absl import flags
    from ml_collections import config_flags

    start = _start(path, overrides, task)
    fields = configuration.fields_of(task)
    check_overrides(overrides, fields)
    _check_complete(path, start, overridden(overrides), fields)
    values, arguments = flags.FlagValues(), ["kdjax", *overrides]
    # Without sys_argv the flags would read the arguments of the running process.
    config_flags.DEFINE_config_dict("config", start, flag_values=values, sys_argv=arguments)
    try:
        left = values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        if wrong := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL):
            name, value = wrong.groups()
            if name in fields and any(text.startswith(f"--config.{name}") for text in overrides):
                raise wrong_type(name, value, fields[name]) from None
        raise configuration.ConfigError(f"{' '.join(arguments[1:])}: {error}") from None
    no_more(left[1:], fields)
    config = values["config"].value
    if not path and task == "train":
        _drop_shares(config, overrides)
    return config


def _start(
    path: str, overrides: Sequence[str], task: configuration.Task
) -> ml_collections.ConfigDict:
    """The configuration to which overrides are applied.

    A Python file is run. It may register terms, which add fields.

    Args:
      path: as in :func:`read_config`.
      overrides: the overrides on the command line.
      task: the task of the command.
    """
    if not path:
        return _without_file(overrides, task)
    if is_stored(path):
        return _read_json(path, task)
    file = Path(path.partition(":")[0])
    if not file.is_file():
        raise configuration.ConfigError(f"--config={path}: there is no such file")
    # As Python does for a script, so that a config file may import files from its directory.
    sys.path.insert(0, str(file.resolve().parent))
    return _run_file(path, task)


def is_stored(path: str) -> bool:
    """Whether this is a workdir's ``config.json`` and not a Python file, which is run."""
    return path.endswith(".json") and Path(path).is_file()


def _read_json(path: str, task: configuration.Task) -> ml_collections.ConfigDict:
    """Reads the configuration in a workdir's ``config.json``."""
    try:
        config = configuration.from_json(Path(path).read_text())
    except (configuration.ConfigError, UnicodeDecodeError) as error:
        raise configuration.ConfigError(f"--config={path}: {error}") from None
    _same_task(path, configuration.task_of(config), task)
    return config


def _same_task(path: str, found: configuration.Task, task: configuration.Task) -> None:
    if found != task:
        raise configuration.ConfigError(
            f"--config={path} is a configuration of `kdjax {found}`, not of `kdjax {task}`"
        )


def _without_file(overrides: Sequence[str], task: configuration.Task) -> ml_collections.ConfigDict:
    """The configuration to which overrides are applied if no file is named."""
    text = "=".join(overrides)  # A value may be a separate argument.
    if re.search(r"--config\.data\.name=(?!['\"]?digits['\"]?(=|$))", text):
        config = configuration.default_of(task)
    else:
        config = configuration.first_run(task)
    if task == "search" and re.search(r"--config\.search\.target\.", text):
        # A user who names a target wants only that one, not the default one too.
        config.search.target.update(dict.fromkeys(config.search.target, 0.0))
    return config


def _drop_shares(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Removes the recipe's ``teacher_weights`` if the students or the rule are different ones."""
    students = len(config.student_widths or config.student_scales)
    takes_shares = configuration.RULES[config.ensemble.rule].takes_shares
    fits = takes_shares and students == len(config.teacher_weights)
    if not fits and "teacher_weights" not in overridden(overrides):
        config.teacher_weights = ()


def _run_file(path: str, task: configuration.Task) -> ml_collections.ConfigDict:
    """Returns what a file's ``get_config`` returns, a configuration of this task."""
    from absl import flags
    from ml_collections import config_flags

    values, arguments = flags.FlagValues(), ["kdjax", f"--config={path}"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except Exception as error:  # A config file is Python, and may raise anything.
        if unknown := re.search(r'Key "(\w+)" does not exist', str(error)):
            raise configuration.unknown_field(unknown[1], configuration.fields_of(task)) from None
        reason = f"{type(error).__name__}: {error}"
        if "Error whilst parsing config file" in reason:
            # ml_collections puts the file's own traceback into the message.
            reason = reason.strip().splitlines()[-1]
        reason = re.sub(r"^(kdjax\.config\.fields\.)?ConfigError: ", "", reason).rstrip(": ")
        raise configuration.ConfigError(f"--config={path} cannot be run: {reason}") from error
    found = values["config"].value
    if not isinstance(found, ml_collections.ConfigDict):
        raise configuration.ConfigError(
            f"--config={path}: get_config() returned a {type(found).__name__}: expected an "
            "ml_collections.ConfigDict, as kdjax.config.default() returns"
        )
    _same_task(path, configuration.task_of(found), task)
    return found


def _check_complete(
    path: str,
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    fields: Mapping[str, configuration.Field],
) -> None:
    """Raises ConfigError if a configuration lacks a field that is overridden."""
    present = dict(configuration.flatten(config))
    for name in names:
        if name not in present:
            raise configuration.ConfigError(
                f"--config={path}: config.{name} is missing: {fields[name].meaning}"
            )


def default_workdir(config: ml_collections.ConfigDict) -> Path:
    """The directory that an experiment is written to if no workdir is given."""
    name = f"{config.data.name}-{config.network}".replace("/", "-").replace(":", "-")
    task = configuration.task_of(config)
    prefix = "" if task == "train" else f"{task}-"
    return Path("kdjax-runs") / f"{prefix}{name}"


def check_overrides(arguments: Sequence[str], fields: Mapping[str, configuration.Field]) -> None:
    """Checks that arguments are overrides of known fields, before anything reads their values.

    Raises:
      ConfigError: for the first argument that is not; the message names what was probably meant.
    """
    named = set[str]()
    for before, text in zip(["", *arguments], arguments, strict=False):
        name = text.partition("=")[0]
        if name in named and isinstance(_default(name, fields), tuple):
            # ml_collections would join the two tuples.
            raise configuration.ConfigError(f"{name} is given twice: expected one tuple")
        named.add(name)
        if name.startswith("--config."):
            if (field := name.removeprefix("--config.")) not in fields:
                raise configuration.unknown_field(field, fields)
        elif name.startswith("--noconfig."):
            if (field := name.removeprefix("--noconfig.")) not in fields:
                raise configuration.unknown_field(field, fields)
        elif before.startswith("--config.") and "=" not in before and not name.startswith("--"):
            field = before.removeprefix("--config.")
            if isinstance(fields[field].default, bool):  # The name alone already means True.
                raise configuration.ConfigError(
                    f"unknown argument {text!r}: write --config.{field}=True or =False"
                )
        else:
            no_more([text], fields)


def _default(name: str, fields: Mapping[str, configuration.Field]) -> object:
    field = fields.get(name.removeprefix("--config."))
    return None if field is None else field.default


def overridden(arguments: Sequence[str]) -> list[str]:
    """The fields that overrides set, each once, in the order of the overrides."""
    found = (re.match(r"--(?:no)?config\.([\w.]+)", text) for text in arguments)
    return list(dict.fromkeys(match[1] for match in found if match))


def no_more(
    arguments: Sequence[str], fields: Mapping[str, configuration.Field] | None = None
) -> None:
    """Raises ConfigError if arguments are left over.

    Args:
      arguments: the arguments that no flag has taken.
      fields: the fields that the command can override; None: it takes no overrides.
    """
    if not arguments:
        return
    text = arguments[0]
    if fields is None:
        raise configuration.ConfigError(f"unknown argument {text!r}: --help lists what there is")
    name = text.partition("=")[0].lstrip("-").removeprefix("config.")
    if flag := difflib.get_close_matches(name, _FLAGS, n=1, cutoff=0.8):
        raise configuration.ConfigError(f"unknown argument {text!r}: did you mean --{flag[0]}=...?")
    near = configuration.nearest(name, fields)
    hint = f": did you mean --config.{near}?" if near else ""
    raise configuration.ConfigError(
        f"unknown argument {text!r}{hint or '; overrides look like --config.weights.soft=0.3'}"
    )

"""Configurations from files and overrides, with errors that name the field."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from kdjax import config as configuration


def read_config(
    path: str, overrides: Sequence[str], kind: configuration.Kind = "train"
) -> ml_collections.ConfigDict:
    """The configuration of a file with overrides applied.

    Args:
      path: ``file.py`` or ``file.py:argument`` with a ``get_config``; empty means the default.
        A config file is Python and is run.
      overrides: ``--config.a.b=value`` (or the value as the next argument).
      kind: ``train`` or ``search``.

    Raises:
      ConfigError: if the file cannot be used or is of the other kind, an argument is not an
        override, or a field does not exist or has another type.
    """
    from absl import flags
    from ml_collections import config_flags

    fields = configuration.fields_of(kind)
    default = {"train": configuration.default, "search": configuration.search_default}[kind]
    for name in (text.split("=")[0] for text in overrides if text.startswith("--config.")):
        field = name.removeprefix("--config.")
        if field not in fields:
            raise configuration.unknown_field(field, fields)
    values = flags.FlagValues()
    arguments = ["kdjax", *([f"--config={path}"] if path else []), *overrides]
    # Without sys_argv the flags would look at the arguments of whatever process this is.
    settings = {"flag_values": values, "sys_argv": arguments}
    if path:
        if not Path(path.partition(":")[0]).is_file():
            raise configuration.ConfigError(f"--config={path}: there is no such file")
        # Like a script: a config file may import its neighbours.
        sys.path.insert(0, str(Path(path.partition(":")[0]).resolve().parent))
        config_flags.DEFINE_config_file("config", **settings)
    else:
        config_flags.DEFINE_config_dict("config", default(), **settings)
    try:
        left = values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        _check_kind(path, kind)
        if unknown := re.search(r'Key "(\w+)" does not exist', str(error)):
            raise configuration.unknown_field(unknown[1], fields) from None
        raise configuration.ConfigError(f"{' '.join(arguments[1:])}: {error}") from None
    no_more(left[1:])
    _check_kind(path, kind)
    return values["config"].value


def _check_kind(path: str, kind: configuration.Kind) -> None:
    """Raises ConfigError if a file, before any override, is a configuration of the other kind."""
    if not path:
        return
    from absl import flags
    from ml_collections import config_flags

    values, arguments = flags.FlagValues(), ["kdjax", f"--config={path}"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError):
        return  # What is wrong with the file itself is said where it is read.
    found = configuration.kind(values["config"].value)
    if found != kind:
        raise configuration.ConfigError(
            f"--config={path} is a configuration of `kdjax {found}`, not of `kdjax {kind}`"
        )


def default_workdir(config: ml_collections.ConfigDict) -> Path:
    """Where an experiment goes if nothing is said."""
    name = f"{config.data.name}-{config.network}".replace("/", "-").replace(":", "-")
    prefix = "search-" if configuration.kind(config) == "search" else ""
    return Path("kdjax-runs") / f"{prefix}{name}"


def no_more(arguments: Sequence[str]) -> None:
    """Raises ConfigError if arguments are left over."""
    if arguments:
        raise configuration.ConfigError(
            f"unknown argument {arguments[0]!r}; overrides look like --config.weights.soft=0.3"
        )

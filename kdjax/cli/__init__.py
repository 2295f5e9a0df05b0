"""The command line: flags in, one library call each."""

import logging
import os
import sys
from collections.abc import Sequence

from kdjax import process
from kdjax.cli.commands import STOPPED
from kdjax.cli.configs import default_workdir, read_config
from kdjax.cli.parser import make_parser

__all__ = ["default_workdir", "main", "make_parser", "read_config"]

_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. Errors that a person can mend print one line."""
    parser = make_parser()
    known, rest = parser.parse_known_args(arguments)
    if arguments is None:  # Called as a program, not by one.
        process.restart_tuned(sys.orig_argv, process.cache_directory() / "compiled")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("kdjax").setLevel(logging.INFO)  # What was found in the data, for one.
    try:
        return known.run(known, rest)
    except (ValueError, ArithmeticError, OSError) as error:
        if os.environ.get("KDJAX_TRACEBACK"):
            raise
        print(f"kdjax {known.command}: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        print(f"\nkdjax {known.command}: stopped at once", file=sys.stderr)
        return STOPPED

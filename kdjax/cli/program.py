"""Runs one command, from its arguments to its exit status."""

import io
import logging
import os
import sys
from collections.abc import Sequence

from kdjax import process
from kdjax.cli.parser import make_parser

_USAGE_ERROR = 2


def run(arguments: Sequence[str] | None) -> int:
    """Runs the command that ``arguments`` name; returns the exit status.

    If ``arguments`` is None, the arguments of this program are used.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    if arguments is None:  # Started as a program, not called from Python.
        process.restart_tuned(sys.orig_argv, process.cache_directory() / "compiled")
        if isinstance(sys.stdout, io.TextIOWrapper):  # Names of files may not be UTF-8.
            sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # Shows messages of kdjax, such as what was found in the data.
    logging.getLogger("kdjax").setLevel(logging.INFO)
    # Orbax logs every barrier of a save, and every failure with several stack traces. kdjax
    # reports what matters of it.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        return args.run(args, rest)
    except (ValueError, ArithmeticError, OSError) as error:
        if os.environ.get("KDJAX_TRACEBACK"):
            raise
        print(f"kdjax {args.command}: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except (RuntimeError, AssertionError):
        problem = process.platform_problem()
        if not problem or os.environ.get("KDJAX_TRACEBACK"):
            raise
        print(f"kdjax {args.command}: {problem}", file=sys.stderr)
        return _USAGE_ERROR

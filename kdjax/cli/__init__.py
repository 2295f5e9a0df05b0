"""The command line: each command reads its flags and makes one library call."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["default_workdir", "main", "make_parser", "read_config"]

STOPPED = 130  # The exit status that shells use for a process ended by Ctrl-C.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. Errors that the user can fix print one line."""
    if arguments is None:
        sys.unraisablehook = _ask_again
    try:
        # Imported here, so that Ctrl-C during the import is handled in the same way as later.
        from kdjax.cli.program import run

        return run(arguments)
    except KeyboardInterrupt:
        if arguments is None:  # The program is ending: a second Ctrl-C must not disturb it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nkdjax: stopped at once", file=sys.stderr)
        return STOPPED


def _ask_again(found: "sys.UnraisableHookArgs") -> None:
    """Sends Ctrl-C again where Python would drop it, such as in the garbage collector."""
    if issubclass(found.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(found)


def __getattr__(name: str) -> Any:
    """Imports a public function from another module when it is accessed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdjax.cli import configs, parser

    return parser.make_parser if name == "make_parser" else getattr(configs, name)

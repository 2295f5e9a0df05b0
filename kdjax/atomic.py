"""Writes files, also in JSON, completely or not at all; reads JSON."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file, which replaces ``path`` when the block ends without an error.

    It is in the same directory as ``path``.

    Raises:
      OSError: if ``path`` cannot be written, for example on a full disk; the message names it.
    """
    target = path.resolve()  # Write through a symbolic link instead of replacing it.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:  # The system's message about a failed write names no file.
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # A read-only file system refuses this too.
            temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
      OSError: if ``path`` cannot be written; the message names it.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(_encoded(content))


def _encoded(content: str | bytes) -> bytes:
    # Names of files may hold bytes that are not UTF-8; Python reads them as surrogates.
    return content.encode(errors="surrogateescape") if isinstance(content, str) else content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON completely or not at all; NaN and infinity raise ValueError."""
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file or it holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

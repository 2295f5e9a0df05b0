"""Files that are written whole or not at all; JSON among them."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which takes its place when the block ends without an error.

    Raises:
      OSError: naming ``path``, if it cannot be written, on a full disk say.
    """
    target = path.resolve()  # A link stays one.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:  # What the system says of a failed write names no file.
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # A read-only file system refuses that, too.
            temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
      OSError: naming ``path``, if it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON whole or not at all; what is not finite is no JSON, and refused."""
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file or it holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

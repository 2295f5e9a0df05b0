"""The JSON files of `kdjax bench` and `kdjax plan`: a check before writing, and their origin."""

import datetime
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdjax


def check_output(path: Path, kind: str) -> None:
    """Raises ValueError if ``path`` is a directory, or a file that another command wrote.

    Args:
      path: the file to write.
      kind: the entry ``kind`` in files of this command, such as ``kdjax bench``.
    """
    if path.is_dir():
        raise ValueError(f"--out is {path}: that is a directory")
    if not path.exists():
        return
    try:
        known = json.loads(path.read_text()).get("kind") == kind
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise ValueError(f"--out is {path}: that file was not written by `{kind}`")


def made_with(packages: Sequence[str]) -> dict[str, Any]:
    """Versions of kdjax and of those ``packages`` that are installed, the command, and the time."""
    versions = {"kdjax": kdjax.__version__}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "command": " ".join(["kdjax", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

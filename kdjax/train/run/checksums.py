"""SHA-256 of what a checkpoint holds: the parts of its state, its record, its files.

The sums of the files show damage before Orbax reads a file. The sums of the contents show whether
Orbax restored what was saved.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from kdjax import atomic

_LOGGER = logging.getLogger(__name__)

_FILES = "sha256.json"


def of_state(state: Mapping[str, Any]) -> dict[str, str]:
    """Returns the sum of each part of a state: names, dtypes, shapes, contents of its arrays."""
    sums = {}
    for part, tree in state.items():
        digest = hashlib.sha256()
        leaves = flax.traverse_util.flatten_dict({part: tree}, sep="/")
        for path, leaf in sorted(leaves.items()):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{path} {array.dtype} {np.shape(leaf)}\n".encode())
            digest.update(array.tobytes())
        sums[part] = digest.hexdigest()
    return sums


def of_record(record: Any) -> str:
    """Returns the sum of any JSON value."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def list_files(folder: Path) -> None:
    """Writes a list of the files' sums for each step in ``folder`` that has no such list yet.

    Orbax calls this when the contents of a step are complete, before the step gets its final name.
    Files next to the items are left out: they belong to Orbax and may still change.
    """
    for step in folder.iterdir():
        if not step.name.split(".")[0].isdecimal() or (step / _FILES).exists():
            continue
        try:
            files = [path for path in sorted(step.glob("*/**/*")) if path.is_file()]
            sums = {str(path.relative_to(step)): _of_file(path) for path in files}
            atomic.write(step / _FILES, json.dumps(sums, indent=1) + "\n")
        except OSError as error:  # A full disk, or a step that has just been deleted.
            _LOGGER.debug("%s: %s", step, error)


def find_damage(step: Path) -> str:
    """Returns what is wrong with the files of a step; empty if nothing is, or it has no list."""
    if not (step / _FILES).exists():
        return ""
    sums = atomic.read_json(step / _FILES)
    if not sums:
        return f"{step / _FILES} cannot be read"
    for name, expected in sums.items():
        path = step / name
        if not path.is_file():
            return f"{path} is missing"
        if _of_file(path) != expected:
            return f"{path} is damaged: it differs from its checksum"
    return ""


def _of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

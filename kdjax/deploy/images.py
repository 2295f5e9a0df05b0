"""Finds the image files that a user names by files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from kdjax.data import DataError
from kdjax.data.folders import IMAGE_ENDINGS, images_below


def find_images(named: Sequence[str]) -> list[Path]:
    """Returns the files that the arguments name, each once, in the order of the arguments.

    A folder stands for the image files in it and in its subfolders, sorted; hidden files and
    folders are left out. A pattern such as ``"photos/*.png"`` stands for the files that match it. A
    file that is named directly is taken whatever its ending.

    Raises:
      DataError: if an argument names no file.
    """
    found: dict[Path, Path] = {}
    for name in named:
        if not name:
            raise DataError("'' names no file: one of the images is an empty text")
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            files = images_below(path)
        elif path.exists():
            files = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            files = [match for match in matches if match.is_file()]
        if not files:
            if path.is_dir():
                raise DataError(f"{name} holds no images ({', '.join(sorted(IMAGE_ENDINGS))})")
            raise DataError(f"{name}: there is no such file or folder, and no file like it")
        for file in files:
            other = found.setdefault(file.resolve(), file)
            if len(str(file)) < len(str(other)):  # Links may lead to a file in many ways.
                found[file.resolve()] = file
    return list(found.values())

"""Finds the splits, the classes and the image files in a folder of images."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kdjax.data.dataset import DataError

_LOGGER = logging.getLogger(__name__)

IMAGE_ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".tif", ".tiff", ".webp"),
}
_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# Names of folders that operating systems, archives and file servers leave behind.
_IGNORED = {
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}

Listing = list[tuple[str, int]]  # the file, relative to the folder that was named; its label


def find_images(location: str) -> tuple[Path, tuple[str, ...], dict[str, Listing]]:
    """Finds image files stored as ``<class>/<image>``, or in splits as ``train/<class>/<image>``.

    Splits are called ``train``, ``val`` (or ``valid``, ``validation``) and ``test``. A folder is
    read as splits if all folders in it have such names and ``train`` is one of them. It is also
    read as splits if ``train`` and another split hold folders, even if there are other folders
    beside them. Otherwise its folders are classes, and one of them may be called ``train``. Names
    that start with a dot are ignored, and so are folders that archives and operating systems leave
    behind (``__MACOSX``).

    Returns:
      The folder; the class names, which are the sorted names of the class folders; and the files of
      each part, relative to the folder, with their labels. The parts are ``train`` and, if present,
      ``validation`` and ``test``.

    Raises:
      DataError: if there is no such folder, it cannot be read, it holds no classes or images, it
        can be read in two ways, or a split has a class that train lacks.
    """
    name = f"config.data.name is 'folder:{location}'"
    if not location:
        raise DataError(f"{name}: expected folder:<dir>")
    root = Path(os.path.expanduser(location))
    if not root.is_dir():
        raise DataError(f"{name}: there is no such folder")
    parts = _parts(root) or {"train": root}
    for folder in parts.values():
        if not _folders(folder):
            raise DataError(f"{folder} holds no folders; expected one per class")
    class_names = tuple(_folders(parts["train"]))
    listings = {part: _list_images(root, folder, class_names) for part, folder in parts.items()}
    found = [
        f"{len(listing)} images in {parts[part].name if parts[part] != root else 'its folders'}"
        for part, listing in listings.items()
    ]
    _LOGGER.info(
        "folder:%s: %s, of %d classes: %s",
        location,
        ", ".join(found),
        len(class_names),
        ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else ""),
    )
    return root, class_names, listings


def _folders(folder: Path) -> list[str]:
    """Returns the sorted names of the folders in a folder, without those that are ignored."""
    return _entries(folder)[0]


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the sorted names of folders and of files in a folder, without those ignored.

    A missing folder has none.

    Raises:
      DataError: if the folder cannot be read.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # An entry knows what it is: of a million files only links are looked at here.
                if _is_visible(entry.name) and _leads_to(entry.is_dir):
                    folders.append(entry.name)
                elif _is_visible(entry.name) and _leads_to(entry.is_file):
                    files.append(entry.name)
    except FileNotFoundError:  # A split may lack a class.
        return [], []
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    return sorted(folders), sorted(files)


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; False for a link that leads to itself or through a file."""
    try:
        return kind()
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _IGNORED


def images_below(folder: Path) -> list[Path]:
    """Returns the sorted image files in a folder and its subfolders; ignored names are left out.

    Raises:
      DataError: if one of these folders cannot be read.
    """
    return [folder / name for name in _files_below(folder) if _is_image(name)]


def _files_below(folder: Path) -> list[str]:
    """Returns the sorted files in a folder and its subfolders, relative to it.

    Links are followed, each folder once.
    """
    found = _walk(folder, "", set())
    return sorted(found, key=lambda name: name.split(os.sep))


def _walk(folder: Path, below: str, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder / below)
    if real in seen:
        return
    seen.add(real)
    folders, files = _entries(folder / below)
    yield from (os.path.join(below, name) for name in files)
    for name in folders:
        yield from _walk(folder, os.path.join(below, name), seen)


def read_file(path: Path) -> bytes:
    """Returns the bytes of an image file.

    Raises:
      DataError: without permission. Other errors may be temporary, and are raised as they are: as a
        DataError, such an error would let ``skip_corrupt`` leave the image out.
    """
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _parts(root: Path) -> dict[str, Path]:
    """Returns the folder of each part; empty if the folders are classes."""
    folders = _folders(root)
    splits = [name for name in folders if name.lower() in _SPLITS]
    others = [name for name in folders if name not in splits]
    train = [name for name in splits if name.lower() == "train"]
    if splits and not others and not train:
        raise DataError(f"{root} holds {', '.join(splits)}, but no train")
    if not train or (others and not _folders(root / train[0])):
        return {}
    if others and not any(_folders(root / name) for name in splits if name not in train):
        raise DataError(
            f"{root} holds {train[0]}/, in which there are folders, and {', '.join(others[:5])}: "
            "are they splits or classes? Beside splits (train, val, test) there must be nothing, "
            "and a class called train must hold images"
        )
    parts: dict[str, Path] = {}
    for name in sorted(splits, key=lambda name: list(_SPLITS).index(name.lower())):
        part = _SPLITS[name.lower()]
        if part in parts:
            raise DataError(f"{root} holds both {parts[part].name}/ and {name}/: expected one")
        parts[part] = root / name
    if others:
        _LOGGER.warning("%s: not used: %s", root, ", ".join(others))
    return parts


def _list_images(root: Path, folder: Path, class_names: tuple[str, ...]) -> Listing:
    classes, beside = _entries(folder)
    if unknown := set(classes) - set(class_names):
        raise DataError(f"{folder} has classes {sorted(unknown)} that train lacks")
    listing = []
    unused = list(filter(_is_image, beside))
    for label, class_name in enumerate(class_names):
        place = (folder / class_name).relative_to(root)
        for name in _files_below(folder / class_name):
            if _is_image(name):
                listing.append((os.path.join(place, name), label))
            else:
                unused.append(os.path.join(class_name, name))
    if unused:
        names = ", ".join(unused[:3])
        _LOGGER.warning(
            "%s: %d files are not used, since they are no images of a class: %s%s",
            folder,
            len(unused),
            names,
            ", ..." if len(unused) > 3 else "",
        )
    if not listing:
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise DataError(f"{folder}: its folders hold no images ({endings})")
    return listing

"""Finds the splits, the classes and the image files in a folder of images."""

import logging
import os
from collections.abc import Iterator
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

Listing = list[tuple[Path, int]]


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
      each part with their labels. The parts are ``train`` and, if present, ``validation`` and
      ``test``.

    Raises:
      DataError: if there is no such folder, it holds no classes or images, it can be read in two
        ways, or a split has a class that train lacks.
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
    listings = {part: _list_images(folder, class_names) for part, folder in parts.items()}
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
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and _is_visible(path.name)
    )


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _IGNORED


def images_below(folder: Path) -> list[Path]:
    """Returns the sorted image files in a folder and its subfolders; ignored names are left out."""
    return sorted(path for path in _files_below(folder) if path.suffix.lower() in IMAGE_ENDINGS)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders; links are followed, each folder once."""
    seen = set()
    for place, folders, files in os.walk(folder, onerror=_cannot_be_read, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(_is_visible, folders))
        paths = (Path(place, name) for name in files if _is_visible(name))
        yield from (path for path in paths if path.is_file())


def _cannot_be_read(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # A split may lack a class.
        raise DataError(f"{error.filename} cannot be read: {error.strerror}")


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


def _list_images(folder: Path, class_names: tuple[str, ...]) -> Listing:
    if unknown := set(_folders(folder)) - set(class_names):
        raise DataError(f"{folder} has classes {sorted(unknown)} that train lacks")
    listing = []
    beside = (path for path in folder.iterdir() if _is_visible(path.name) and path.is_file())
    unused = [path for path in beside if path.suffix.lower() in IMAGE_ENDINGS]
    for label, name in enumerate(class_names):
        for path in sorted(_files_below(folder / name)):
            if path.suffix.lower() in IMAGE_ENDINGS:
                listing.append((path, label))
            else:
                unused.append(path)
    if unused:
        names = ", ".join(str(path.relative_to(folder)) for path in unused[:3])
        _LOGGER.warning(
            "%s: %d files are not used, since they are no images of a class: %s%s",
            *(folder, len(unused), names, ", ..." if len(unused) > 3 else ""),
        )
    if not listing:
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise DataError(f"{folder}: its folders hold no images ({endings})")
    return listing

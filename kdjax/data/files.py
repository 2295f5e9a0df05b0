"""The user's own data: one npz file, or a folder with one folder per class."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from kdjax.data import cache
from kdjax.data.dataset import DataError, RawSet, Split
from kdjax.data.images import colour_mode, decode_all

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


def read_npz(location: str) -> RawSet:
    """Reads ``train_images``, ``train_labels`` and perhaps ``test_images``, ``test_labels``.

    Images are ``[n, height, width, channels]`` or ``[n, height, width]`` uint8, labels ``[n]``
    integers. ``class_names [classes]`` strings is optional; without it the classes are 0 to the
    largest training label.

    Raises:
      DataError: if the file is not such an archive.
    """
    path = Path(location).expanduser()
    if not path.is_file():
        raise DataError(f"npz:{location}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"npz:{location} cannot be read: it is not an npz archive")
    try:
        # Opened here because NumPy leaves a broken archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"npz:{location} cannot be read: {error}") from None
    needed = {"train_images", "train_labels"}
    optional = {"test_images", "test_labels", "class_names"}
    if not needed <= set(arrays) or ("test_images" in arrays) != ("test_labels" in arrays):
        raise DataError(
            f"npz:{location} holds {sorted(arrays)}; expected {sorted(needed)} and, if at all "
            f"together, test_images and test_labels (of {sorted(needed | optional)})"
        )
    splits = [_npz_split(arrays, part) for part in ("train", "test") if f"{part}_labels" in arrays]
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"])
    else:
        labels = splits[0].labels
        largest = labels.max(initial=-1) if np.issubdtype(labels.dtype, np.integer) else -1
        class_names = tuple(str(index) for index in range(int(largest) + 1))
    return RawSet(splits[0], splits[1] if len(splits) > 1 else None, class_names)


def _npz_split(arrays: dict[str, np.ndarray], part: str) -> Split:
    images = arrays[f"{part}_images"]
    return Split(images[..., None] if images.ndim == 3 else images, arrays[f"{part}_labels"])


Listing = list[tuple[Path, int]]


def find_images(location: str) -> tuple[Path, tuple[str, ...], dict[str, Listing]]:
    """The image files of ``<class>/<image>``, or ``train/<class>/...`` and ``test/<class>/...``.

    Returns:
      The folder; the classes, its folders' names in sorted order; the files of each part with
      their labels.

    Raises:
      DataError: if there is no such folder, it holds no classes or images, or the test split has a
        class that train lacks.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise DataError(f"folder:{location}: there is no such folder")
    parts = {"train": root}
    if (root / "train").is_dir():
        parts = {part: root / part for part in ("train", "test") if (root / part).is_dir()}
    class_names = tuple(sorted(path.name for path in parts["train"].iterdir() if path.is_dir()))
    if not class_names:
        raise DataError(f"{parts['train']} holds no folders; expected one per class")
    return root, class_names, {part: _list_images(p, class_names) for part, p in parts.items()}


def read_folder(location: str, size: tuple[int, int], *, skip_corrupt: bool = False) -> RawSet:
    """Reads the image files of :func:`find_images`. Grey images stay grey if all are.

    Raises:
      DataError: as :func:`find_images`, or if a file does not decode.
    """
    root, class_names, listings = find_images(location)
    paths = [path for listing in listings.values() for path, _ in listing]
    relative = [str(path.relative_to(root)) for path in paths]

    def make() -> dict[str, np.ndarray]:
        encoded = [(path.read_bytes(), str(path)) for path in paths]
        mode = colour_mode(encoded, skip_corrupt=skip_corrupt)
        images, decoded = decode_all(
            len(encoded), encoded.__getitem__, size, mode, root.name, skip_corrupt=skip_corrupt
        )
        return {"images": images, "decoded": decoded}

    name = f"folder-{cache.key(paths, relative, size, skip_corrupt)}"
    arrays = cache.cached(name, make)
    images, decoded = arrays["images"], arrays["decoded"]
    splits, start, place = {}, 0, 0
    for part, listing in listings.items():
        kept = decoded[start : start + len(listing)]
        labels = np.array([label for _, label in listing], np.int32)[kept]
        splits[part] = Split(images[place : place + len(labels)], labels)
        start, place = start + len(listing), place + len(labels)
    return RawSet(splits["train"], splits.get("test"), class_names)


def _list_images(folder: Path, class_names: tuple[str, ...]) -> Listing:
    if unknown := [p.name for p in folder.iterdir() if p.is_dir() and p.name not in class_names]:
        raise DataError(f"{folder} has classes {sorted(unknown)} that train lacks")
    listing = [
        (path, label)
        for label, name in enumerate(class_names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()
    ]
    for label, name in enumerate(class_names):
        if not any(index == label for _, index in listing):
            raise DataError(f"{folder / name} holds no images ({', '.join(sorted(IMAGE_ENDINGS))})")
    return listing

"""Decoding image files and encoded bytes to uint8 arrays."""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from rich.progress import track

from kdjax.data.augment import central_crop, resized
from kdjax.data.dataset import DataError

_LOGGER = logging.getLogger(__name__)

_CHUNK = 256  # images a task: large enough that handing out tasks costs nothing
_GREY_MODES = ("1", "L", "LA")


def read_image(source: str | Path | bytes | PIL.Image.Image, where: str = "") -> PIL.Image.Image:
    """One image as training reads it, upright and without transparency, of the size it has.

    The image is rotated as its EXIF data says, as image viewers do. Transparent parts become white.
    Of an animation the first image is taken.

    Args:
      source: a file, or the bytes of one, in any format Pillow reads; or an image of Pillow.
      where: what to call it in errors; empty: the file's path.

    Returns:
      The image in mode ``L`` if it is grey, else ``RGB``.

    Raises:
      DataError: if it cannot be read, does not decode or has more than 8 bits a channel; names it.
    """
    encoded: bytes | PIL.Image.Image
    if isinstance(source, (bytes, PIL.Image.Image)):
        encoded, where = source, where or "the image"
    else:
        where = where or str(source)
        try:
            encoded = Path(source).expanduser().read_bytes()
        except OSError as error:
            raise DataError(f"{where} cannot be read: {error.strerror or error}") from None
    try:
        image = encoded if isinstance(encoded, PIL.Image.Image) else _open(encoded)
        # A caller's image stays open.
        with contextlib.nullcontext() if image is encoded else image:
            if image.mode.startswith(("I", "F")):
                # Pillow would clip them to 8 bits, silently.
                raise OSError(f"it has more than 8 bits a channel (mode {image.mode})")
            image.load()
            return _opaque(_upright(image, where))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{where} does not decode as an image: {error}") from None


def _open(source: bytes | Path) -> PIL.Image.Image:
    try:
        return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except PIL.UnidentifiedImageError:  # Its message is a memory address.
        raise OSError("it is in no format that Pillow knows") from None


def _upright(image: PIL.Image.Image, where: str) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises bare errors of many types for broken EXIF data.
        _LOGGER.warning("%s: its EXIF data cannot be read (%s), taken as stored", where, error)
        return image


def _opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def fit_image(
    image: PIL.Image.Image, image_shape: tuple[int, int, int], memory: str = "device"
) -> np.ndarray:
    """An image as evaluation sees it.

    With ``device`` the whole image is resized. With ``stream`` the middle of the image is taken
    (:func:`kdjax.data.augment.central_crop`). Both leave an image as it is if it already has the
    size. Grey becomes colour, or colour grey, as the networks need it.

    Args:
      image: of :func:`read_image`.
      image_shape: (height, width, channels) of a dataset.
      memory: of the dataset, ``device`` or ``stream``, as the field ``data.memory`` names it.

    Returns:
      ``[height, width, channels]`` uint8.
    """
    height, width, channels = image_shape
    image = image.convert("L" if channels == 1 else "RGB")
    fit = {"device": resized, "stream": central_crop}[memory]
    return _array(fit(image, (height, width)))


def _array(image: PIL.Image.Image) -> np.ndarray:
    array = np.asarray(image, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def decode(encoded: bytes, where: str, size: tuple[int, int], mode: str) -> np.ndarray:
    """``[height, width, channels]`` uint8 of one encoded image.

    Args:
      encoded: the bytes of a PNG, JPEG or any format Pillow reads.
      where: the file or record, for errors.
      size: (height, width) to resize to, bilinear; (0, 0) keeps the size.
      mode: ``RGB``, or ``L`` for grey.

    Raises:
      DataError: if the bytes do not decode; names ``where``.
    """
    return decode_with(encoded, where, mode, lambda image: resized(image, size))


def decode_with(
    encoded: bytes,
    where: str,
    mode: str,
    transform: Callable[[PIL.Image.Image], PIL.Image.Image],
) -> np.ndarray:
    """``[height, width, channels]`` uint8 of one encoded image, transformed.

    Args:
      encoded: the bytes of a PNG, JPEG or any format Pillow reads.
      where: the file or record, for errors.
      mode: ``RGB``, or ``L`` for grey.
      transform: image -> image, both of that mode.

    Raises:
      DataError: if the bytes do not decode; names ``where``.
    """
    return _array(transform(read_image(encoded, where).convert(mode)))


def decode_all(
    count: int,
    read: Callable[[int], tuple[bytes, str]],
    size: tuple[int, int],
    mode: str,
    name: str,
    *,
    skip_corrupt: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes ``count`` images, which must agree in shape, on all cores, with a progress bar.

    Args:
      count: how many.
      read: index -> (encoded bytes, what to call the image in errors); raises DataError if the
        image cannot be read, which counts as one that does not decode.
      size: (height, width) to resize to; (0, 0) keeps sizes.
      mode: ``RGB``, or ``L`` for grey.
      name: of the set, for the progress bar.
      skip_corrupt: whether images that do not decode are left out, with a warning each.

    Returns:
      ``[decoded, height, width, channels]`` uint8, and ``[count]`` bool, which were decoded.

    Raises:
      DataError: if one does not decode, none does, or one differs in shape from the first.
    """

    def one(index: int) -> np.ndarray | None:
        try:
            encoded, where = read(index)
            return decode(encoded, where, size, mode)
        except DataError as error:
            if not skip_corrupt:
                raise
            _LOGGER.warning("%s: left out", error)
            return None

    decodable = ((index, image) for index in range(count) if (image := one(index)) is not None)
    place_of_first, first = next(decodable, (0, None))
    if first is None:
        raise DataError(f"{name}: none of {count} images decodes")
    images = np.empty((count, *first.shape), np.uint8)
    decoded = np.ones(count, bool)

    def place(start: int) -> None:
        for index in range(start, min(start + _CHUNK, count)):
            image = one(index)
            if image is None:
                decoded[index] = False
                continue
            if image.shape != first.shape:
                raise sizes_differ(
                    read(index)[1], image.shape[:2], read(place_of_first)[1], first.shape[:2]
                )
            images[index] = image

    # Pillow releases the interpreter lock while it decodes.
    chunks = range(0, count, _CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(place, chunks)
        label = f"decoding {name}"
        for _ in track(results, label, total=len(chunks), transient=True, disable=count < 2000):
            pass
    return (images if decoded.all() else images[decoded]), decoded


def sizes_differ(
    where: str, size: tuple[int, ...], other: str, expected: tuple[int, ...]
) -> DataError:
    """The error for two images of different sizes.

    Args:
      where: the file or record of the image.
      size: its (height, width), in pixels.
      other: the file or record that it is compared with.
      expected: the (height, width) of that one.
    """
    return DataError(
        f"{where} is {size[0]} x {size[1]} pixels, {other} is {expected[0]} x {expected[1]}: "
        "images must agree in size; give --config.data.image_size='(height, width)' to resize them"
    )


def colour_mode(encoded: Iterable[tuple[bytes | Path, str]], *, skip_corrupt: bool = False) -> str:
    """``L`` if every image is grey, else ``RGB``; only headers are read."""
    for source, where in encoded:
        found = header(source, where, skip_corrupt=skip_corrupt)
        if found is not None and found[0] not in _GREY_MODES:
            return "RGB"
    return "L"


def header(
    source: bytes | Path, where: str, *, skip_corrupt: bool = False
) -> tuple[str, tuple[int, int]] | None:
    """Pillow's mode of a stored image, and the (height, width) that it decodes to.

    Args:
      source: the encoded image, or its file.
      where: what to call it in errors.
      skip_corrupt: whether to return None instead of raising.

    Raises:
      DataError: if it is not an image.
    """
    try:
        with _open(source) as image:
            # Pillow rotates a TIFF by itself. Without the look at "exif", it would decode a whole
            # PNG to find out.
            turned = image.format != "TIFF" and "exif" in image.info and _lies(image)
            return image.mode, image.size if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        if skip_corrupt:
            return None
        raise DataError(f"{where} does not decode as an image: {error}") from None


def _lies(image: PIL.Image.Image) -> bool:
    """Whether EXIF data says that rows are stored as columns."""
    try:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # Broken EXIF data; _upright warns of it.
        return False

"""Decoding image files and encoded bytes to uint8 arrays."""

import io
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
from rich.progress import track

from kdjax.data.dataset import DataError

_CHUNK = 256  # images a task: large enough that handing out tasks costs nothing


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

    def resize(image: PIL.Image.Image) -> PIL.Image.Image:
        if size == (0, 0):
            return image
        return image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)

    return decode_with(encoded, where, mode, resize)


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
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            if image.mode.startswith(("I", "F")):
                # Pillow would clip them to 8 bits, silently.
                raise OSError(f"it has more than 8 bits a channel (mode {image.mode})")
            array = np.asarray(transform(image.convert(mode)), np.uint8)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{where} does not decode as an image: {error}") from None
    return array if array.ndim == 3 else array[..., None]


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
      read: index -> (encoded bytes, what to call the image in errors).
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
        encoded, where = read(index)
        try:
            return decode(encoded, where, size, mode)
        except DataError as error:
            if not skip_corrupt:
                raise
            logging.warning("%s: left out", error)
            return None

    first = next((image for index in range(count) if (image := one(index)) is not None), None)
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
                raise DataError(
                    f"{read(index)[1]} is {image.shape[0]} x {image.shape[1]} pixels, "
                    f"{read(0)[1]} is {first.shape[0]} x {first.shape[1]}: images must agree in "
                    "size; give --config.data.image_size='(height, width)' to resize them"
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


def colour_mode(encoded: Sequence[tuple[bytes, str]], *, skip_corrupt: bool = False) -> str:
    """``L`` if every image is grey, else ``RGB``; only headers are read."""
    for content, where in encoded:
        try:
            with PIL.Image.open(io.BytesIO(content)) as image:
                if image.mode not in ("1", "L", "LA"):
                    return "RGB"
        except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            if not skip_corrupt:
                raise DataError(f"{where} does not decode as an image: {error}") from None
    return "L"

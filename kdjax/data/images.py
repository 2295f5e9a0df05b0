"""Decoding image files and encoded bytes to uint8 arrays."""

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

from kdjax import machine
from kdjax.data.crops import central_crop, resized
from kdjax.data.dataset import DataError

_LOGGER = logging.getLogger(__name__)

_CHUNK = 256  # images per task: large enough that starting tasks costs almost nothing
_GREY_MODES = ("1", "L", "LA")


def read_image(source: str | Path | bytes | PIL.Image.Image, where: str = "") -> PIL.Image.Image:
    """Reads one image as training reads it: upright, without transparency, in its own size.

    The image is rotated as its EXIF data says, as image viewers do. Transparent parts become white.
    If the file is an animation, its first image is used.

    Args:
      source: a file, or the bytes of a file, in any format Pillow reads; or a Pillow image, which
        stays as it is.
      where: the image's name in error messages; empty means the file's path.

    Returns:
      The image in mode ``L`` if it is grey, else ``RGB``.

    Raises:
      DataError: if the image cannot be read, does not decode, or is grey with more than 8 bits; the
        message names the image. Of 16-bit colours Pillow keeps the upper 8 bits.
    """
    encoded: bytes | PIL.Image.Image
    if isinstance(source, (bytes, PIL.Image.Image)):
        encoded, where = source, where or "the image"
    else:
        where = where or str(source)
        try:
            encoded = Path(os.path.expanduser(source)).read_bytes()
        except OSError as error:
            raise DataError(f"{where} cannot be read: {error.strerror or error}") from None
    try:
        # An image that the caller opened must stay open, and as it is.
        image = encoded.copy() if isinstance(encoded, PIL.Image.Image) else _open(encoded)
        with image:
            _check_depth(image)
            image.load()
            return _opaque(_upright(image, where))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{where} does not decode as an image: {error}") from None


def _open(source: bytes | Path) -> PIL.Image.Image:
    try:
        return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except PIL.UnidentifiedImageError:  # Its message only has a memory address.
        raise OSError("Pillow does not know its format") from None


def _check_depth(image: PIL.Image.Image) -> None:
    """Raises OSError for grey with more than 8 bits, which Pillow would clip without a warning."""
    if image.mode.startswith(("I", "F")):
        raise OSError(f"it has more than 8 bits a channel (mode {image.mode})")


def _upright(image: PIL.Image.Image, where: str) -> PIL.Image.Image:
    try:
        # Pillow would copy an image that is upright.
        is_upright = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises errors of many types for broken EXIF data.
        _LOGGER.warning("%s: its EXIF data cannot be read (%s), taken as stored", where, error)
        return image


def _opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.mode == "P":
        image = image.copy()  # Some decoders leave out the palette, which a copy always has.
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
    return _converted(image, mode)


def _converted(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Returns the image in a mode; it is not copied if it has this mode already."""
    return image if image.mode == mode else image.convert(mode)


def fit_image(
    image: PIL.Image.Image, image_shape: tuple[int, int, int], memory: str = "device"
) -> np.ndarray:
    """Returns an image as evaluation sees it.

    With ``device``, the whole image is resized. With ``stream``, the middle of the image is taken
    (:func:`kdjax.data.crops.central_crop`). An image that already has the right size is neither
    resized nor cropped. Grey images become colour images, or colour images grey, as the networks
    need.

    Args:
      image: what :func:`read_image` returns.
      image_shape: (height, width, channels) of a dataset.
      memory: the dataset's value of the field ``data.memory``, ``device`` or ``stream``.

    Returns:
      ``[height, width, channels]`` uint8.
    """
    height, width, channels = image_shape
    image = _converted(image, "L" if channels == 1 else "RGB")
    fit = {"device": resized, "stream": central_crop}[memory]
    return _array(fit(image, (height, width)))


def _array(image: PIL.Image.Image) -> np.ndarray:
    array = np.asarray(image, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def decode(encoded: bytes, where: str, size: tuple[int, int], mode: str) -> np.ndarray:
    """Decodes one image to ``[height, width, channels]`` uint8.

    Args:
      encoded: the bytes of a PNG, JPEG or any format Pillow reads.
      where: the file or record, for error messages.
      size: (height, width) to resize to, bilinear; (0, 0) keeps the size.
      mode: ``RGB``, or ``L`` for grey.

    Raises:
      DataError: if the bytes do not decode; the message names ``where``.
    """
    return decode_with(encoded, where, mode, lambda image: resized(image, size))


def decode_with(
    encoded: bytes,
    where: str,
    mode: str,
    transform: Callable[[PIL.Image.Image], PIL.Image.Image],
) -> np.ndarray:
    """Decodes one image, transforms it and returns ``[height, width, channels]`` uint8.

    Args:
      encoded: the bytes of a PNG, JPEG or any format Pillow reads.
      where: the file or record, for error messages.
      mode: ``RGB``, or ``L`` for grey.
      transform: a function from an image to an image, both in that mode.

    Raises:
      DataError: if the bytes do not decode; the message names ``where``.
    """
    return _array(transform(_converted(read_image(encoded, where), mode)))


def decode_all(
    count: int,
    read: Callable[[int], tuple[bytes, str]],
    size: tuple[int, int],
    mode: str,
    name: str,
    *,
    skip_corrupt: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes ``count`` images of one shape on all cores, with a progress bar.

    Args:
      count: the number of images.
      read: a function from an index to (encoded bytes, the image's name in error messages). It
        raises DataError if the image cannot be read; such an image counts as one that does not
        decode.
      size: (height, width) to resize to; (0, 0) keeps sizes.
      mode: ``RGB``, or ``L`` for grey.
      name: the dataset's name, for the progress bar.
      skip_corrupt: whether images that do not decode are left out, with a warning for each.

    Returns:
      ``[decoded, height, width, channels]`` uint8, and ``[count]`` bool, True for each image that
      was decoded.

    Raises:
      DataError: if an image does not decode (unless ``skip_corrupt``), if no image decodes, or if
        an image differs in shape from the first one.
    """

    broken: set[int] = set()

    def one(index: int) -> np.ndarray | None:
        if index in broken:  # It was found while looking for the first image.
            return None
        try:
            encoded, where = read(index)
            return decode(encoded, where, size, mode)
        except DataError as error:
            if not skip_corrupt:
                raise
            _LOGGER.warning("%s: left out", error)
            broken.add(index)
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
    with ThreadPoolExecutor(machine.usable_cores()) as pool:
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
      size: the image's (height, width), in pixels.
      other: the file or record that it is compared with.
      expected: the (height, width) of that other image.
    """
    return DataError(
        f"{where} is {size[0]} x {size[1]} pixels, {other} is {expected[0]} x {expected[1]} "
        "(height x width): images must agree in size; give "
        "--config.data.image_size='(height, width)' to resize them"
    )


def colour_mode(encoded: Iterable[tuple[bytes | Path, str]], *, skip_corrupt: bool = False) -> str:
    """Returns ``L`` if every image is grey, else ``RGB``; reads only headers."""
    for source, where in encoded:
        found = header(source, where, skip_corrupt=skip_corrupt)
        if found is not None and found[0] not in _GREY_MODES:
            return "RGB"
    return "L"


def header(
    source: bytes | Path, where: str, *, skip_corrupt: bool = False
) -> tuple[str, tuple[int, int]] | None:
    """Returns Pillow's mode of a stored image, and the (height, width) that it decodes to.

    Args:
      source: the encoded image, or its file.
      where: the image's name in error messages.
      skip_corrupt: whether to return None instead of raising.

    Raises:
      DataError: if it is not an image, or is grey with more than 8 bits.
    """
    try:
        with _open(source) as image:
            _check_depth(image)
            # Pillow rotates a TIFF by itself. The names are looked up first, because Pillow would
            # decode a whole PNG to search for EXIF data.
            says = any(name in image.info for name in ("exif", "xmp", "XML:com.adobe.xmp"))
            turned = image.format != "TIFF" and says and _is_rotated(image)
            return image.mode, image.size if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        if skip_corrupt:
            return None
        raise DataError(f"{where} does not decode as an image: {error}") from None


def _is_rotated(image: PIL.Image.Image) -> bool:
    """Returns whether the EXIF data says that rows are stored as columns."""
    try:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # Broken EXIF data; _upright warns of it.
        return False

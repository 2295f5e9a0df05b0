"""Turns image files or arrays into a network's input, in the same way as evaluation."""

import dataclasses
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import PIL.Image

from kdjax.data import fit_image, read_image
from kdjax.data.batches import normalize

# A file, its bytes, a Pillow image, or uint8 pixels [height, width, channels].
Source = str | PathLike[str] | bytes | PIL.Image.Image | np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Turns images into ``[batch, height, width, channels]`` float32, as in evaluation.

    Attributes:
      image_shape: (height, width, channels) as the network sees them.
      mean, std: per channel, of pixel values in [0, 1], for normalisation.
      memory: what is done to an image of another size. ``device``: it is resized. ``stream``: it is
        resized with its proportions kept, to cover 256/224 of the network's height and width, and
        the middle is cut out.
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    memory: str

    def __call__(self, images: Source | Iterable[Source]) -> np.ndarray:
        """Reads images, fits them to the network's size and normalises them.

        Args:
          images: one or several files, Pillow images or uint8 arrays, of any size; or one array,
            ``[batch, height, width, channels]`` uint8.

        Returns:
          ``[batch, height, width, channels]`` float32.

        Raises:
          kdjax.data.DataError: if a file cannot be read as an image.
          ValueError: if an array does not hold uint8 images.
        """
        return np.asarray(self.normalize(self.pixels(images)))

    def pixels(self, images: Source | Iterable[Source]) -> np.ndarray:
        """Reads images and fits them to the network's size, without :meth:`normalize`.

        Takes what :meth:`__call__` takes; returns ``[batch, height, width, channels]`` uint8.
        """
        if isinstance(images, jax.Array):
            images = np.asarray(images)
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if images.dtype == np.uint8 and images.shape[1:] == self.image_shape:
                return images
            images = list(images)
        elif isinstance(images, (str, PathLike, bytes, PIL.Image.Image, np.ndarray)):
            images = [images]
        fitted = [self.fit(image) for image in images]
        return np.stack(fitted) if fitted else np.empty((0, *self.image_shape), np.uint8)

    def fit(self, image: Source) -> np.ndarray:
        """Returns one image as ``[height, width, channels]`` uint8 of the network's size."""
        opened: Any = Path(image) if isinstance(image, str) else image
        if isinstance(image, (np.ndarray, jax.Array)):
            opened = _from_array(np.asarray(image))
        return fit_image(read_image(opened), self.image_shape, self.memory)

    def normalize(self, images: chex.Array) -> chex.Array:
        """``(images / 255 - mean) / std`` of uint8 images of the network's size; may be traced."""
        return normalize(images, self.mean, self.std)


def _from_array(image: np.ndarray) -> PIL.Image.Image:
    shape, channels = image.shape, image.shape[-1] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3):
        raise ValueError(
            f"an image has shape {shape} and dtype {image.dtype}: expected uint8, 0 to 255, "
            "[height, width, channels] with 1 or 3 channels"
        )
    if 0 in shape:
        raise ValueError(f"an image has shape {shape}: it has no pixels")
    return PIL.Image.fromarray(image[..., 0] if shape[2:] == (1,) else image)

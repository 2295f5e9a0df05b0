"""Crops of images of any size to one size, on the host, from Pillow to Pillow."""

import dataclasses
import math

import numpy as np
import PIL.Image

_BILINEAR = PIL.Image.Resampling.BILINEAR
_TRIES = 10
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
# The shorter side before the central crop, relative to the crop's.
_MARGIN = 256 / 224


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of an image, of 8 to 100 % of its area.

    The ratio of the sides is log-uniform in 3/4 to 4/3. If ten draws do not fit into the image, the
    largest central box with a ratio in that range is taken.

    Args:
      width: of the image, in pixels.
      height: of the image, in pixels.
      rng: for the random numbers.

    Returns:
      (left, top, right, bottom), in pixels.

    References:
      Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015, section 6.
    """
    for _ in range(_TRIES):
        area = rng.uniform(*_AREA) * width * height
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return x, y, x + w, y + h
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(
    image: PIL.Image.Image, size: tuple[int, int], rng: np.random.Generator
) -> PIL.Image.Image:
    """A random part of the image (:func:`random_box`), resized.

    Args:
      image: of any size.
      size: (height, width) of the result, in pixels; resizing is bilinear.
      rng: for the random numbers.
    """
    return image.resize((size[1], size[0]), _BILINEAR, box=random_box(*image.size, rng))


def resized(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The whole image as (height, width), bilinear; (0, 0) keeps its size."""
    return image if size == (0, 0) else image.resize((size[1], size[0]), _BILINEAR)


def central_crop(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The middle of the image as (height, width), cut from the image resized with a margin.

    The image is first resized, with its proportions kept, to cover 256/224 of the crop's height and
    width. An image that already has the crop's size is taken whole.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = max(_MARGIN * width / image.width, _MARGIN * height / image.height)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), _BILINEAR)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
    """How a training image of a stream is cropped; can be sent to another process.

    Attributes:
      size: (height, width) of the crop.
      padding: -1: a random part of the image, resized. Else the middle of the image, moved by up to
        this many pixels in height and in width; pixels from outside the image are 0.
    """

    size: tuple[int, int]
    padding: int

    def __call__(self, image: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
        if self.padding < 0:
            return resized_crop(image, self.size, rng)
        middle = central_crop(image, self.size)
        if self.padding == 0:
            return middle
        y, x = rng.integers(-self.padding, self.padding + 1, 2).tolist()
        return middle.crop((x, y, x + middle.width, y + middle.height))

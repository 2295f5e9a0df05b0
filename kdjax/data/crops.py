"""Crops Pillow images of any size to one fixed size, on the host."""

import dataclasses
import math

import numpy as np
import PIL.Image

_BILINEAR = PIL.Image.Resampling.BILINEAR
_TRIES = 10
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
# Before a central crop, the image is resized to cover the crop's size times this factor.
_MARGIN = 256 / 224


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Returns a random box that covers 8 to 100 % of an image's area.

    The ratio of width to height is log-uniform in 3/4 to 4/3. If none of ten draws fits into the
    image, the largest central box with a ratio in that range is returned.

    Args:
      width: the image's width, in pixels.
      height: the image's height, in pixels.
      rng: the random number generator.

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
    """Returns a random part of the image (:func:`random_box`), resized.

    Args:
      image: an image of any size.
      size: (height, width) of the result, in pixels; resizing is bilinear.
      rng: the random number generator.
    """
    return image.resize((size[1], size[0]), _BILINEAR, box=random_box(*image.size, rng))


def resized(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """Returns the whole image resized to (height, width), bilinear; (0, 0) keeps its size."""
    if size in ((0, 0), (image.height, image.width)):
        return image
    return image.resize((size[1], size[0]), _BILINEAR)


def central_crop(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """Returns the central (height, width) part of the image, after resizing it with a margin.

    The image is first resized, with its proportions kept, to cover 256/224 of the crop's height and
    width. An image that already has the crop's size is returned as it is.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = max(_MARGIN * width / image.width, _MARGIN * height / image.height)
    covering = image.resize((round(image.width * scale), round(image.height * scale)), _BILINEAR)
    left, top = (covering.width - width) // 2, (covering.height - height) // 2
    return covering.crop((left, top, left + width, top + height))


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
    """Crops the training images of a stream; can be sent to another process.

    Attributes:
      size: (height, width) of the crop.
      padding: -1 takes a random part of the image and resizes it. 0 or more takes the central crop
        and shifts it by up to this many pixels in height and in width; pixels from outside the
        central crop are 0.
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

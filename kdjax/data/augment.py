"""Crops of images of any size to one size, on the host, from Pillow to Pillow."""

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
    """A part of an image: (left, top, right, bottom), of 8 to 100 % of its area.

    The ratio of the sides is log-uniform in 3/4 to 4/3; where ten draws do not fit, it is the
    largest central box whose ratio does.

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
    """A random part of the image (:func:`random_box`) as (height, width), bilinear."""
    return image.resize((size[1], size[0]), _BILINEAR, box=random_box(*image.size, rng))


def resized(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The whole image as (height, width), bilinear; (0, 0) keeps its size."""
    return image if size == (0, 0) else image.resize((size[1], size[0]), _BILINEAR)


def central_crop(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The middle of the image as (height, width), its shorter side 256/224 of the crop's before.

    An image that has that size already is taken whole.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = max(_MARGIN * width / image.width, _MARGIN * height / image.height)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), _BILINEAR)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))

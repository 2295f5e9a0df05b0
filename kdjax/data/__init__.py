"""Named sources of images, read whole into memory as uint8, and their augmentation."""

from kdjax.data.dataset import DataError, Dataset, Split
from kdjax.data.images import fit_image, read_image
from kdjax.data.registry import SourceOptions, load, names
from kdjax.data.streamed import Streamed, stream

__all__ = [
    "DataError",
    "Dataset",
    "SourceOptions",
    "Split",
    "Streamed",
    "fit_image",
    "load",
    "names",
    "read_image",
    "stream",
]

"""Named image datasets, read into memory or streamed as uint8, and their augmentation."""

from kdjax.data.dataset import DataError, Dataset, Split
from kdjax.data.division import SourceOptions
from kdjax.data.images import fit_image, read_image
from kdjax.data.registry import is_array, load, names
from kdjax.data.streamed import Streamed, stream

__all__ = [
    "DataError",
    "Dataset",
    "SourceOptions",
    "Split",
    "Streamed",
    "fit_image",
    "is_array",
    "load",
    "names",
    "read_image",
    "stream",
]

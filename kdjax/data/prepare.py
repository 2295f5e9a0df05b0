"""Prepares a TFDS dataset as array_record; needs TensorFlow and a network connection."""

import importlib.util
from pathlib import Path

from kdjax.data.dataset import DataError
from kdjax.data.tfds_source import default_data_dir


def prepare(name: str, data_dir: str = "") -> Path:
    """Downloads and prepares a TFDS dataset in the format that kdjax reads.

    Args:
      name: the dataset's name in the TFDS catalogue.
      data_dir: the directory to prepare it in; empty means ``$TFDS_DATA_DIR`` if that is set, else
        ``~/tensorflow_datasets``.

    Returns:
      The directory of the prepared version.

    Raises:
      DataError: if TensorFlow is missing, there is no such dataset, or it cannot be downloaded.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            'preparing a TFDS set needs TensorFlow: pip install ".[prepare]" in a checkout of '
            "kdjax (reading it afterwards does not)"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(
            name, data_dir=default_data_dir(data_dir), file_format="array_record"
        )
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises errors of many types when offline.
        raise DataError(f"{name} cannot be prepared: {error}") from error
    return Path(builder.data_path)

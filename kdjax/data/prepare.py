"""Preparing a TFDS set as array_record, where TensorFlow and the network are there."""

import importlib.util
from pathlib import Path

from kdjax.data.dataset import DataError
from kdjax.data.tfds_source import default_data_dir


def prepare(name: str, data_dir: str = "") -> Path:
    """Downloads and prepares a TFDS set in the format that kdjax reads.

    Args:
      name: as in the TFDS catalogue.
      data_dir: empty means ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.

    Returns:
      The directory of the prepared version.

    Raises:
      DataError: if TensorFlow is missing, there is no such set, or it cannot be downloaded.
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
    except Exception as error:  # TFDS raises bare errors of many types when offline.
        raise DataError(f"{name} cannot be prepared: {error}") from error
    return Path(builder.data_path)

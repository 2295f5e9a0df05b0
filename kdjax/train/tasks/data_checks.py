"""Checks of a configuration that need the dataset."""

import ml_collections

from kdjax import config as configuration
from kdjax import data
from kdjax.config import ConfigError
from kdjax.data.dataset import batches_of

_LARGEST_STEP = 2**31 - 1


def check_image_size(config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Checks that images have the configured size; images of some sources are never resized.

    Raises:
      ConfigError: if they have another size.
    """
    size = tuple(config.data.image_size)
    if size not in ((0, 0), image_shape[:2]):
        raise ConfigError(
            f"config.data.image_size is {size}: the images of {config.data.name} are "
            f"{image_shape[0]} x {image_shape[1]} and are not resized, unlike those of folders "
            "and TFDS sets; expected (0, 0)"
        )


def check_data(config: ml_collections.ConfigDict, dataset: data.Dataset | data.Streamed) -> None:
    """Checks the fields that depend on the number of images and on their size.

    Raises:
      ConfigError: for the first field that does not fit.
    """
    train_size = dataset.sizes["train"]
    if config.batch_size > train_size:
        raise ConfigError(
            f"config.batch_size is {config.batch_size}: at most the {train_size} training images "
            f"of {config.data.name}"
        )
    steps = batches_of(train_size, config.batch_size)
    longest = _LARGEST_STEP // steps
    for name, epochs in _epochs(config).items():
        if epochs > longest:
            raise ConfigError(
                f"config.{name} is {epochs}: at most {longest} epochs of {steps} steps, since "
                "steps are counted in 32 bits"
            )
    if config.evaluation.select == "best" and not dataset.sizes["validation"]:
        raise ConfigError(
            f"config.data.validation is {config.data.validation}: that holds out no image of "
            f"{config.data.name}, and config.evaluation.select is 'best'"
        )
    cut_at_random = isinstance(dataset, data.Streamed) and config.data.resized_crop
    if not cut_at_random and config.data.crop_padding >= min(dataset.image_shape[:2]):
        raise ConfigError(
            f"config.data.crop_padding is {config.data.crop_padding}: it must be below the image "
            f"size, {dataset.image_shape[0]} x {dataset.image_shape[1]}"
        )


def _epochs(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Returns the epochs of all runs that a configuration asks for, by field."""
    task = configuration.task_of(config)
    if task == "train":
        return {"epochs": config.epochs}
    if task == "distill":
        return {"epochs": config.epochs, "teacher.epochs": config.teacher.epochs}
    stages = ("teacher", "search", "distil")
    return {f"{stage}.epochs": config[stage].epochs for stage in stages}

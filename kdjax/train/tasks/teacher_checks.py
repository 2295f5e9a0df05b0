"""Checks of every fixed teacher: which data it has seen, and that it stays the same."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from kdjax.config import ConfigError
from kdjax.train.run import workdir
from kdjax.train.tasks.experiment import Experiment

# Fields that decide which examples are held out.
_SPLIT_FIELDS = ("name", "validation", "test", "split_seed")
# If these fields are equal too, the images and labels must be the same.
_SAME_IMAGES = ("memory", "image_size", "labels_per_class", "skip_corrupt")


def check_split(
    data: Mapping[str, Any], fingerprint: str, experiment: Experiment, name: str
) -> str:
    """Checks that a teacher was not trained on what an experiment holds out.

    Args:
      data: the fields ``data`` of the configuration that the teacher was trained with.
      fingerprint: the fingerprint of the dataset that it was trained on.
      experiment: the experiment whose students it is to teach.
      name: the name of the teacher, for the error.

    Returns:
      A remark if this cannot be known, because the teacher was trained on other data; else empty.

    Raises:
      ConfigError: if it was trained on the same data, but the data was divided in another way or
        has changed since.
    """
    own = experiment.config.data
    if data["name"] != own.name:
        return (
            f"{name} was trained on {data['name']}, not on {own.name}: make sure that it has "
            "not seen the test images"
        )
    check_held_out(data, fingerprint, experiment, name)
    return ""


def check_held_out(
    data: Mapping[str, Any], fingerprint: str, experiment: Experiment, name: str
) -> None:
    """Checks that a teacher's data was divided like the experiment's data of the same name.

    Args:
      data: the fields ``data`` of the configuration that the teacher was trained with.
      fingerprint: the fingerprint of the dataset that it was trained on.
      experiment: the experiment whose students it is to teach.
      name: the name of the teacher, for the error.

    Raises:
      ConfigError: if the data was divided in another way, or has changed since.
    """
    if fingerprint == experiment.dataset.fingerprint():
        return
    own = experiment.config.data
    fields = [field for field in _SPLIT_FIELDS if data[field] != own[field]]
    # Corrupt images are removed from a set in memory before it is divided, from a stream after.
    if data["skip_corrupt"] and own["skip_corrupt"] and data["memory"] != own["memory"]:
        fields.append("memory")
    if fields:
        field = fields[0]
        raise ConfigError(
            f"{name} does not fit: its config.data.{field} is {data[field]}, expected "
            f"{own[field]}: it may have been trained on what is held out here"
        )
    if all(data[field] == own[field] for field in _SAME_IMAGES):
        raise ConfigError(
            f"{name} does not fit: the images, labels or splits of {own.name} have changed since "
            "it was trained: it may have been trained on what is held out here"
        )


def digest(variables: Mapping[str, Any]) -> str:
    """Returns a digest of the exact numbers in a tree of arrays."""
    total = hashlib.sha256()
    for path, leaf in sorted(flax.traverse_util.flatten_dict(variables, sep="/").items()):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def record_teacher(path: Path, found: str, *, task: str = "a search") -> None:
    """Records at the first start which teacher a workdir has; it must stay the same.

    Args:
      path: the workdir, already locked.
      found: the teacher's :func:`digest`.
      task: what the workdir holds, in words.

    Raises:
      WorkdirError: if the teacher has changed since.
    """
    changed = (
        f"{task} with another teacher: config.teacher names another one, or its weights have "
        "changed since; name the first one again"
    )
    workdir.record_once(path, "teacher.json", {"digest": found}, changed)

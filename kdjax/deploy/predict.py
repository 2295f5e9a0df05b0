"""Predicts classes and probabilities of image files, in batches, with one compiled function."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import machine
from kdjax.data import DataError
from kdjax.deploy.student import Student

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The classes that a network predicts for images.

    Attributes:
      images: the files that were read, in order.
      classes: for each image, the names of the most likely classes, the most likely first.
      probabilities: the probabilities of those classes, from 0 to 1.
      unread: the files that could not be read.
    """

    images: tuple[Path, ...]
    classes: tuple[tuple[str, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]
    unread: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns ``predictions``, with one entry per image, and ``unread``."""
        return {
            "predictions": [
                {
                    "image": str(image),
                    "classes": [
                        {"class": name, "probability": probability}
                        for name, probability in zip(names, shares, strict=True)
                    ],
                }
                for image, names, shares in zip(
                    self.images, self.classes, self.probabilities, strict=True
                )
            ],
            "unread": [str(path) for path in self.unread],
        }


def predict(
    student: Student, files: Sequence[Path], *, top: int | None = None, batch_size: int = 64
) -> Predictions:
    """Predicts the most likely classes of image files; warns of unreadable files and skips them.

    Args:
      student: the network.
      files: the images.
      top: how many classes to return per image; None means five, or all if there are fewer.
      batch_size: how many images go into one call of the compiled function.

    Raises:
      ValueError: if ``top`` is out of range.
      kdjax.data.DataError: if no image can be read.
      ArithmeticError: if the network's output is not finite.
    """
    classes = len(student.class_names)
    top = min(5, classes) if top is None else top
    if not 1 <= top <= classes:
        raise ValueError(f"top is {top}: there are {classes} classes")
    size = max(1, min(batch_size, len(files)))
    run = _compiled(student, top)
    read: list[Path] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    pending: list[tuple[Any, int]] = []

    def collect() -> None:
        values, count = pending.pop(0)
        probabilities, indices = jax.device_get(values)
        if not np.isfinite(probabilities).all():
            raise ArithmeticError(f"{student.name} of {student.run}: its output is not finite")
        parts.append((probabilities[:count], indices[:count]))

    for paths, images in _batches(student.preprocess.fit, files, size):
        read += paths
        padding = np.zeros((size - len(images), *images.shape[1:]), np.uint8)
        pending.append((run(np.concatenate([images, padding])), len(images)))
        if len(pending) > 2:  # Batches are computed while the next is read.
            collect()
    while pending:
        collect()
    if not read:
        raise DataError(f"none of {len(files)} images could be read")
    kept = set(read)
    names = np.array(student.class_names, dtype=object)
    return Predictions(
        images=tuple(read),
        classes=tuple(tuple(names[row]) for _, rows in parts for row in rows),
        probabilities=tuple(
            tuple(float(value) for value in row) for rows, _ in parts for row in rows
        ),
        unread=tuple(path for path in files if path not in kept),
    )


def _compiled(student: Student, top: int) -> Callable[[np.ndarray], Any]:
    """Returns a function from uint8 images to the most likely classes.

    Its results are the classes' probabilities and their indices, both ``[batch, top]``.
    """

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        normalized = student.preprocess.normalize(images)
        outputs: Any = student.network.apply(variables, normalized, train=False)
        return jax.lax.top_k(jax.nn.softmax(outputs.logits), top)

    placed = jax.device_put(student.variables)
    return lambda images: run(placed, images)


def _batches(
    fit: Callable[[Path], np.ndarray], files: Sequence[Path], size: int
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields the readable files and their images, up to ``size`` at once; threads read them."""

    def attempt(path: Path) -> np.ndarray | None:
        try:
            return fit(path)
        except (DataError, OSError) as error:
            text = str(error)
            _LOGGER.warning("%s: left out", text if str(path) in text else f"{path}: {text}")
            return None

    with ThreadPoolExecutor(machine.usable_cores()) as pool:
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            found = [
                (path, image)
                for path, image in zip(chunk, pool.map(attempt, chunk), strict=True)
                if image is not None
            ]
            if found:
                yield [path for path, _ in found], np.stack([image for _, image in found])

"""One trained network, loaded with all that is needed to use it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdjax import models
from kdjax.deploy.preprocess import Preprocess
from kdjax.train.tasks import stored
from kdjax.widths import WidthVector


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A trained network and what is needed to use it.

    Attributes:
      network: the linen module; ``network.apply(variables, images, train=False).logits`` is
        ``[batch, classes]`` float32.
      variables: the module's ``params`` and ``batch_stats``, on the host.
      preprocess: turns uint8 images or files into the network's ``images``, as in evaluation.
      class_names: one per class, in the order of the logits.
      widths: the width of each channel group.
      name: such as ``student 3, distilled``.
      run, step: the run that the network comes from, and how many training steps it took.
    """

    network: models.Network
    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    preprocess: Preprocess
    class_names: tuple[str, ...]
    widths: WidthVector
    name: str
    run: str
    step: int


def load_student(
    workdir: str | Path,
    student: int | str = 1,
    *,
    seed: int | None = None,
    checkpoint: str = "last",
) -> Student:
    """Loads a trained network from a workdir; the data it was trained on is not needed.

    >>> student = load_student("kdjax-runs/digits-resnet8", student=3)  # doctest: +SKIP
    >>> images = student.preprocess(["seven.png"])  # doctest: +SKIP
    >>> student.network.apply(student.variables, images, train=False).logits  # doctest: +SKIP

    Args:
      workdir: the workdir of `kdjax train`, `search` or `distill`, finished or running; it may have
        been moved.
      student: the student's number, from 1, or its name. With `kdjax train`, a number means the
        distilled student; ``"student 3, alone"`` is the same student trained by itself. With
        `kdjax search`, the names are ``"compact"``, ``"compact, alone"``, ``"uniform"`` and
        ``"teacher"``. With `kdjax distill`, the names are those of `kdjax train`, and ``"teacher"``
        if the teacher was trained in the same workdir.
      seed: one of the run's seeds; None means the first.
      checkpoint: ``last``, or ``best`` on validation.

    Raises:
      ValueError: if there is no such student or seed.
      kdjax.train.run.workdir.WorkdirError: if the directory holds no run, or is damaged.
      kdjax.train.run.checkpoint.CheckpointError: if there is no such checkpoint, or it is damaged.
    """
    if checkpoint not in ("last", "best"):
        raise ValueError(f"checkpoint is {checkpoint!r}: allowed are 'last' and 'best'")
    found = stored.find(Path(os.path.expanduser(workdir)), student, seed, checkpoint)
    data, networks = found.trained_on, found.checkpoint
    return Student(
        network=networks.module(found.place),
        variables=networks.variables_of(found.place),
        preprocess=Preprocess(data.image_shape, data.mean, data.std, data.memory),
        class_names=data.class_names,
        widths=networks.widths[found.place - 1],
        name=found.name,
        run=networks.run,
        step=networks.step,
    )

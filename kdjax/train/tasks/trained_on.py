"""What ``data.json`` says about the data of an experiment, for use when the data is not there."""

import dataclasses
from pathlib import Path
from typing import Any

from kdjax import atomic, data
from kdjax.train.run.workdir import WorkdirError


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """A dataset without its images.

    Attributes:
      name: as the configuration names it.
      fingerprint: its identity: a digest of images, labels and splits.
      class_names: one per class, in label order.
      image_shape: (height, width, channels) as the networks see them.
      mean, std: per channel, of pixel values in [0, 1], for normalisation.
      memory: what evaluation does to an image of another size. ``device``: it is resized;
        ``stream``: its shorter side is resized, and the middle cut out.
    """

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    memory: str

    @classmethod
    def of(cls, dataset: data.Dataset | data.Streamed) -> "TrainedOn":
        """Returns the description of a dataset, read or ready to be streamed."""
        return cls(
            name=dataset.name,
            fingerprint=dataset.fingerprint(),
            class_names=tuple(dataset.class_names),
            image_shape=dataset.image_shape,
            mean=tuple(float(value) for value in dataset.mean),
            std=tuple(float(value) for value in dataset.std),
            memory="stream" if isinstance(dataset, data.Streamed) else "device",
        )

    def to_json(self) -> dict[str, Any]:
        """The content of ``data.json``."""
        fields = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }


def read(path: Path) -> TrainedOn:
    """Reads ``data.json`` of a workdir.

    Raises:
      WorkdirError: if the file is missing, as before the first epoch, or damaged.
    """
    if not (path / "data.json").exists():
        raise WorkdirError(f"{path / 'data.json'} is missing: nothing has been trained there")
    content = atomic.read_json(path / "data.json")
    try:
        fields: dict[str, Any] = {
            field.name: content[field.name] for field in dataclasses.fields(TrainedOn)
        }
        for name, value in fields.items():
            fields[name] = tuple(value) if isinstance(value, list) else value
        found = TrainedOn(**fields)
        height, width, channels = (int(size) for size in found.image_shape)
        good = (
            min(height, width) > 0
            and len(found.mean) == len(found.std) == channels
            and min(float(value) for value in found.std) > 0
            and len(found.class_names) >= 2
            and found.memory in ("device", "stream")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{path / 'data.json'} is damaged: {error!r}") from None
    if not good:
        raise WorkdirError(f"{path / 'data.json'} is damaged: its fields do not fit each other")
    return found

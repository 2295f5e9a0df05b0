"""The time of a network as a cost: a table of its layers, measured on one machine.

Each layer's time is ``fixed + read * channels in + written * channels out + pair * in * out``,
fitted to measurements at several widths (`kdjax bench --layers`), all of them scaled so that their
sum is the time of the whole network. An estimate: compilers merge layers, and widths that hardware
likes (multiples of 8 or 128) are faster than the line through them.
"""

import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from kdjax import tracing
from kdjax.models import Architecture
from kdjax.search.channels import Channels
from kdjax.search.penalty import CostModel

KIND = "kdjax bench --layers"  # What tells a table from any other JSON.
Four = tuple[float, float, float, float]  # Fixed, read, written, pair.


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Times of the layers of a network.

    Attributes:
      microseconds: of the whole network at full width, for one batch.
      coefficients: (path, its four in microseconds) of each layer, in order of execution. A
        module that is called twice is two layers of one path.
      measured_on: device, batch and dtype, for people.
    """

    microseconds: float
    coefficients: Sequence[tuple[str, Four]]
    measured_on: str

    def model(self, channels: Channels, layers: Collection[int] | None = None) -> CostModel:
        """The cost model of a network, or of some of its layers.

        Args:
          channels: of the network that was measured.
          layers: numbers of its layers; None for all.

        Raises:
          ValueError: if the table is of another network.
        """
        paths = ["/".join(layer.path) for layer in channels.traced.layers]
        known = [path for path, _ in self.coefficients]
        if missing := [path for path in paths if path not in known]:
            raise ValueError(f"the latency table is of another network: it has no {missing[0]!r}")
        if len(known) != len(paths):
            raise ValueError(
                f"the latency table is of another network: it has {len(known)} layers, "
                f"this one {len(paths)}"
            )
        if known != paths:
            raise ValueError(
                "the latency table is of another network: its layers are in another order"
            )
        terms = tracing.layer_terms(channels.traced, [four for _, four in self.coefficients])
        return CostModel.of_terms("latency", channels, terms, layers)


def load_latencies(
    path: str | Path, architecture: Architecture, image_shape: tuple[int, int, int]
) -> LatencyTable:
    """Reads a table and checks that it is of this network.

    Args:
      path: what `kdjax bench --layers` wrote.
      architecture: of the full network.
      image_shape: (height, width, channels) of its input.

    Raises:
      ValueError: if the file cannot be read, is no such table, or of another network.
    """
    try:
        record: Any = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ValueError(f"{path} is no table of `{KIND}`")
    for name, here in (
        ("widths", dict(architecture.widths)),
        ("classes", architecture.num_classes),
        ("image_shape", list(image_shape)),
    ):
        if record.get(name) != here:
            raise ValueError(
                f"{path} was measured with {name} {_difference(record.get(name), here)}: this "
                f"network, {architecture.name}, has {_difference(here, record.get(name))}; measure "
                f"it with `{KIND}`"
            )
    try:
        return LatencyTable(
            microseconds=float(record["microseconds"]),
            coefficients=[
                (str(row["path"]), _four(row["coefficients"])) for row in record["layers"]
            ],
            measured_on=f"{record['environment']['device']}, batch {record['batch_size']}, "
            f"{record['dtype']}",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): measure it with `{KIND}`") from None


def _four(numbers: list[float]) -> Four:
    fixed, read, written, pair = map(float, numbers)
    if not all(0 <= number < math.inf for number in (fixed, read, written, pair)):
        raise ValueError(f"coefficients are {numbers}: expected finite numbers, none below 0")
    return fixed, read, written, pair


def _difference(value: Any, other: Any) -> str:
    """A value in a few words; of two mappings the first entries in which they differ."""
    if isinstance(value, dict) and isinstance(other, dict):
        differing = [name for name in value if name not in other or other[name] != value[name]]
        shown = {name: value[name] for name in differing[:3]}
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return f"{shown or 'no other ones'}{more}"
    text = str(value)
    return text if len(text) < 60 else f"{text[:60]}..."

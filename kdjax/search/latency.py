"""The time of a network as a cost, from a table of layer times that is measured on one machine.

Each layer's time is ``fixed + read * channels in + written * channels out + pair * in * out``,
fitted to measurements at several widths (`kdjax bench --layers`). All layers are scaled by one
factor, so that their sum is the time of the whole network. The result is an estimate: compilers
merge layers, and widths that suit the hardware (multiples of 8 or 128) are faster than the fit.
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

KIND = "kdjax bench --layers"  # The field ``kind`` of a JSON file that holds such a table.
Coefficients = tuple[float, float, float, float]  # The coefficients fixed, read, written and pair.


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Times of the layers of a network.

    Attributes:
      coefficients: (path, four coefficients in microseconds) of each layer, in order of execution.
        A module that is called twice gives two layers with the same path.
      measured_on: device, batch size and dtype, as a text for the user.
    """

    coefficients: Sequence[tuple[str, Coefficients]]
    measured_on: str

    def model(self, channels: Channels, layers: Collection[int] | None = None) -> CostModel:
        """The cost model of a network, or of some of its layers.

        Args:
          channels: the layout of the network that was measured.
          layers: numbers of the layers that count; None for all.

        Raises:
          ValueError: if the table belongs to another network.
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
    """Reads a table and checks that it belongs to this network.

    Args:
      path: a file that `kdjax bench --layers` wrote.
      architecture: the architecture of the full network.
      image_shape: (height, width, channels) of the input.

    Raises:
      ValueError: if the file cannot be read, is not such a table, or belongs to another network.
    """
    try:
        record: Any = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ValueError(f"{path} is not a table of `{KIND}`")
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
            coefficients=[
                (str(row["path"]), _coefficients(row["coefficients"])) for row in record["layers"]
            ],
            measured_on=f"{record['environment']['device']}, batch {record['batch_size']}, "
            f"{record['dtype']}",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): measure it with `{KIND}`") from None


def _coefficients(numbers: list[float]) -> Coefficients:
    fixed, read, written, pair = map(float, numbers)
    if not all(0 <= number < math.inf for number in (fixed, read, written, pair)):
        raise ValueError(f"coefficients are {numbers}: expected finite numbers, none below 0")
    return fixed, read, written, pair


def _difference(value: Any, other: Any) -> str:
    """``value`` as a short text; for two mappings, the first entries in which they differ."""
    if isinstance(value, dict) and isinstance(other, dict):
        differing = [name for name in value if name not in other or other[name] != value[name]]
        shown = {name: value[name] for name in differing[:3]}
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return f"{shown or 'nothing else'}{more}"
    text = str(value)
    return text if len(text) < 60 else f"{text[:60]}..."

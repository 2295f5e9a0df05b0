"""Chooses the strategy for `auto`: the fastest one in measurements made here or shipped with kdjax.

For a platform without any measured device, the strategy that `kdjax plan` found best for a
network's compiled programs is used instead. Such an entry has ``"from": "plan"``, and its speeds
are estimates.
"""

import importlib.resources
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from kdjax import atomic
from kdjax.models import Architecture
from kdjax.models.execution import EXECUTIONS, Execution, execution_named
from kdjax.process import cache_directory
from kdjax.train.devices.parallel import Parallel

_LOGGER = logging.getLogger(__name__)

# A measurement: {"platform", "device_kind", "network", "batch_size", "image_size", "dtype",
# "execution", "images_per_second": {execution: number}}. An estimate also has "from": "plan".
Entry = Mapping[str, Any]

WORKLOAD_KEYS = ("network", "batch_size", "image_size", "dtype")
_KEYS = ("platform", "device_kind", *WORKLOAD_KEYS)
_SIZES = ("image_size", "batch_size")


def execution_of(
    config: ml_collections.ConfigDict,
    architecture: Architecture,
    parallel: Parallel,
    image_shape: tuple[int, int, int],
) -> Execution:
    """The strategy that ``config.compute`` asks for.

    Args:
      config: the experiment's configuration.
      architecture: its ``executions`` are the allowed ones.
      parallel: the devices; ``auto`` looks up measurements for this kind of device.
      image_shape: (height, width, channels) of the images.

    Raises:
      ValueError: if the architecture has no such execution, or no lanes or remat.
    """
    name = config.compute.execution
    if name == "auto":
        device = parallel.devices[0]
        wanted = {
            "platform": device.platform,
            "device_kind": device.device_kind,
            "network": architecture.name,
            "batch_size": config.batch_size // len(parallel.devices),
            "image_size": math.sqrt(image_shape[0] * image_shape[1]),
            "dtype": config.compute.dtype,
        }
        name = nearest(
            wanted,
            [*_read(user_file()), *packaged()],
            # A measurement of one ResNet nearly holds for another, but says nothing about a VGG.
            other_networks="scanned" in architecture.executions,
        )
        name = name if name in architecture.executions else "sequential"
        if config.faults.non_finite != "stop":
            # 0 times NaN is NaN: a fault in one student would spread to all students that run as
            # one network, and all of them would have to be skipped.
            name = "scanned" if execution_named(name).scan else "sequential"
    chosen = execution_named(name, lanes=config.compute.lanes, remat=config.compute.remat)
    if not chosen.is_plain and name not in architecture.executions:
        raise ValueError(
            f"config.compute.execution is {name!r}: {architecture.name} runs as one of "
            f"{', '.join(architecture.executions)}"
        )
    if (chosen.lanes, chosen.remat) != (1, False) and "scanned" not in architecture.executions:
        raise ValueError(
            f"config.compute.lanes and remat are {chosen.lanes} and {chosen.remat}: "
            f"{architecture.name} supports only 1 and False"
        )
    return chosen


def nearest(
    wanted: Mapping[str, Any], entries: Iterable[Entry], *, other_networks: bool = True
) -> str:
    """The execution of the entry that is closest to what is wanted.

    Only entries for the same platform count; estimates must also be for the same network and dtype.
    The order of preference is: the same device, the same network, the same dtype, the closest image
    size, the closest batch size. Among equals, measurements come before estimates, and then the
    first entry is taken.

    Args:
      wanted: ``platform``, ``device_kind``, ``network``, ``batch_size`` (of one device),
        ``image_size`` (the square root of height times width, in pixels) and ``dtype``.
      entries: measurements and estimates.
      other_networks: whether measurements of other networks count.

    Returns:
      The name of an execution; ``sequential`` if no entry counts.
    """

    def distance(entry: Entry) -> tuple[float, ...]:
        differs = [entry[key] != wanted[key] for key in ("device_kind", "network", "dtype")]
        further = [abs(math.log(entry[size] / wanted[size])) for size in _SIZES]
        return (*differs, *further, _is_estimate(entry))

    known = [
        entry
        for entry in entries
        if entry["platform"] == wanted["platform"]
        and (entry["network"] == wanted["network"] or (other_networks and not _is_estimate(entry)))
        and (entry["dtype"] == wanted["dtype"] or not _is_estimate(entry))
    ]
    return min(known, key=distance)["execution"] if known else "sequential"


def _is_estimate(entry: Entry) -> bool:
    return entry.get("from") == "plan"


def record(entries: Sequence[Entry]) -> Path:
    """Adds measurements of this machine to the user's file.

    They replace older ones of the same platform, device kind, network, sizes and dtype.

    Returns:
      The path of the file.
    """
    path = user_file()
    new = {tuple(entry[key] for key in _KEYS) for entry in entries}
    kept = [entry for entry in _read(path) if tuple(entry[key] for key in _KEYS) not in new]
    atomic.write(path, json.dumps([*entries, *kept], indent=2, allow_nan=False) + "\n")
    return path


def user_file() -> Path:
    """The file in which measurements of this machine are kept."""
    return cache_directory() / "executions.json"


def packaged() -> list[Entry]:
    """The measurements shipped with kdjax; experiments/throughput describes how they were made."""
    text = importlib.resources.files("kdjax.train.program").joinpath("executions.json").read_text()
    return json.loads(text)


def _read(path: Path) -> list[Entry]:
    """The usable entries of a file of measurements; none if it is missing or cannot be read."""
    try:
        # Measurements once left out the image size, which is 32 unless `kdjax bench` is told.
        entries = [{"image_size": 32, **entry} for entry in json.loads(path.read_text())]
        return [entry for entry in entries if _is_usable(entry)]
    except FileNotFoundError:
        return []
    except (OSError, RecursionError, TypeError, ValueError) as error:
        # An unreadable file may make the run slower, but it must not stop the run.
        _LOGGER.warning("%s cannot be read and is ignored: %s", path, error)
        return []


def _is_usable(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(key in entry for key in _KEYS)
        and all(isinstance(entry[size], int) and entry[size] > 0 for size in _SIZES)
        and entry.get("execution") in EXECUTIONS
    )

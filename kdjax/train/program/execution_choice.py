"""Which strategy `auto` stands for: the fastest one measured, here or where kdjax was measured.

Where no device of a platform has been measured, what `kdjax plan` found best for a network's
compiled programs stands in; such an entry says ``"from": "plan"``, and its speeds are estimates.
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
from kdjax.models.execution import EXECUTIONS, Execution, named
from kdjax.process import cache_directory
from kdjax.train.devices.parallel import Parallel

_LOGGER = logging.getLogger(__name__)

# A measurement: {"platform", "device_kind", "network", "batch_size", "dtype", "execution",
# "images_per_second": {execution: number}}, and of an estimate "from": "plan".
Entry = Mapping[str, Any]

_KEYS = ("platform", "device_kind", "network", "batch_size", "dtype")


def execution_of(
    config: ml_collections.ConfigDict, architecture: Architecture, parallel: Parallel
) -> Execution:
    """The strategy that ``config.compute`` asks for.

    Args:
      config: of the experiment.
      architecture: whose ``executions`` are allowed.
      parallel: the devices; ``auto`` looks up what was measured on their kind.

    Raises:
      ValueError: if the architecture has no such execution.
    """
    name = config.compute.execution
    if name == "auto":
        device = parallel.devices[0]
        wanted = {
            "platform": device.platform,
            "device_kind": device.device_kind,
            "network": architecture.name,
            "batch_size": config.batch_size // len(parallel.devices),
            "dtype": config.compute.dtype,
        }
        name = nearest(
            wanted,
            [*_read(user_file()), *packaged()],
            # What is true of one ResNet is nearly true of another, and says nothing of a VGG.
            of_others="scanned" in architecture.executions,
        )
        name = name if name in architecture.executions else "sequential"
        if config.faults.non_finite != "stop":
            # 0 times NaN is NaN: students of one network would have to be skipped together.
            name = "scanned" if named(name).scan else "sequential"
    chosen = named(name, lanes=config.compute.lanes, remat=config.compute.remat)
    if not chosen.is_plain and name not in architecture.executions:
        raise ValueError(
            f"config.compute.execution is {name!r}: {architecture.name} runs as one of "
            f"{', '.join(architecture.executions)}"
        )
    if (chosen.lanes, chosen.remat) != (1, False) and "scanned" not in architecture.executions:
        raise ValueError(
            f"config.compute.lanes and remat are {chosen.lanes} and {chosen.remat}: "
            f"{architecture.name} has only 1 and False"
        )
    return chosen


def nearest(wanted: Mapping[str, Any], entries: Iterable[Entry], *, of_others: bool = True) -> str:
    """The execution of the measurement closest to what is wanted.

    Only measurements on the same platform count, and estimates for the same network and dtype.
    Among them the same device comes first, then the same network, the same dtype, and the closest
    batch; of equals, a measurement, and then the first.

    Args:
      wanted: ``platform``, ``device_kind``, ``network``, ``batch_size`` (a device's) and ``dtype``.
      entries: measurements and estimates.
      of_others: whether measurements of other networks count.

    Returns:
      A name; ``sequential`` where nothing is known.
    """

    def distance(entry: Entry) -> tuple[float, ...]:
        differs = [entry[key] != wanted[key] for key in ("device_kind", "network", "dtype")]
        further = abs(math.log(entry["batch_size"] / wanted["batch_size"]))
        return (*differs, further, _is_estimate(entry))

    known = [
        entry
        for entry in entries
        if entry["platform"] == wanted["platform"]
        and (entry["network"] == wanted["network"] or (of_others and not _is_estimate(entry)))
        and (entry["dtype"] == wanted["dtype"] or not _is_estimate(entry))
    ]
    return min(known, key=distance)["execution"] if known else "sequential"


def _is_estimate(entry: Entry) -> bool:
    return entry.get("from") == "plan"


def record(entries: Sequence[Entry]) -> Path:
    """Adds measurements of this machine to the user's file, in place of older ones of the same.

    Returns:
      The file.
    """
    path = user_file()
    new = {tuple(entry[key] for key in _KEYS) for entry in entries}
    kept = [entry for entry in _read(path) if tuple(entry[key] for key in _KEYS) not in new]
    atomic.write(path, json.dumps([*entries, *kept], indent=2, allow_nan=False) + "\n")
    return path


def user_file() -> Path:
    """Where measurements of this machine are kept."""
    return cache_directory() / "executions.json"


def packaged() -> list[Entry]:
    """The measurements that come with kdjax; experiments/throughput says how they were made."""
    text = importlib.resources.files("kdjax.train.program").joinpath("executions.json").read_text()
    return json.loads(text)


def _read(path: Path) -> list[Entry]:
    """The usable entries of a file of measurements; one that is not there has none."""
    try:
        entries = json.loads(path.read_text())
        return [entry for entry in entries if _is_usable(entry)]
    except FileNotFoundError:
        return []
    except (OSError, RecursionError, TypeError, ValueError) as error:
        # A choice that cannot be read costs speed, never the run.
        _LOGGER.warning("%s is left aside: %s", path, error)
        return []


def _is_usable(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(key in entry for key in _KEYS)
        and isinstance(entry["batch_size"], int)
        and entry["batch_size"] > 0
        and entry.get("execution") in EXECUTIONS
    )

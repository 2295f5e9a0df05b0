"""`kdjax plan`: compiles a configuration's step for every target, execution and batch size."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_collections

from kdjax import atomic
from kdjax import config as configuration
from kdjax.config import ConfigError
from kdjax.plan.compiling import Job, compile_apart
from kdjax.plan.estimate import MODEL
from kdjax.plan.stand_in import DataShape
from kdjax.plan.targets import CHIPS, Target, check_compiler, parse
from kdjax.records import check_output, made_with
from kdjax.train.devices.parallel import Parallel
from kdjax.train.tasks.experiment import read_dataset, resolve

KIND = "kdjax plan"  # Marks the files that this command writes.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda12-plugin", "nvidia-cudnn-cu12")


def plan(
    config: ml_collections.ConfigDict,
    targets: Sequence[str],
    *,
    executions: Sequence[str] = (),
    batches: Sequence[int] = (),
    data: DataShape | None = None,
    config_file: str = "",
    path: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compiles the step of `kdjax train` for devices that are not there, and counts what it does.

    Every speed in the result is an estimate. If a configuration trains two methods, the ensemble's
    step is planned.

    Args:
      config: the configuration, as for `kdjax train`.
      targets: such as ``h200``, ``a100:4``, ``v5e:2x2``; :data:`kdjax.plan.CHIPS` has the chips.
      executions: values to use in place of ``config.compute.execution``.
      batches: values to use in place of ``config.batch_size``.
      data: the shapes of the data if it is not on this machine; None means that the data is read.
      config_file: ``file.py`` or ``file.py:argument``, if ``config`` needs what it registers.
      path: where to write the result as JSON; None means that it is not written.
      say: called with progress messages.

    Returns:
      ``results``, one for each combination, and what they are based on: ``model``, ``chips``,
      ``data``, ``config`` and ``environment``.

    Raises:
      ValueError: if a target, execution or batch is not allowed, a compiler is not installed, or
        something else wrote the file at ``path``.
      kdjax.data.DataError: if the data is to be read and is missing or wrong.
    """
    if path is not None:
        check_output(path, KIND)
    found = [parse(name) for name in targets]
    configuration.validate(config, "train")
    planned = [
        (target, _with_execution_and_batch(config, execution, batch))
        for target, execution, batch in itertools.product(
            found,
            executions or (config.compute.execution,),
            batches or (config.batch_size,),
        )
    ]
    for target in found:  # A compiler is large: all that is wrong without it is said first.
        check_compiler(target)
    shape = data or DataShape.of(read_dataset(config))
    for target, each in planned:
        _check(each, target, shape)
    results = []
    for number, (target, each) in enumerate(planned, start=1):
        say(
            f"[{number}/{len(planned)}] compiling for {target.name}: {each.compute.execution}, "
            f"batch {each.batch_size}"
        )
        results.append(_compile(target, each, shape, config_file))
    record = {
        "kind": KIND,
        "note": "Nothing here ran on the targets: counts are of compiled programs, speeds are "
        "estimates from them.",
        "results": results,
        "model": {
            platform: {name: dataclasses.asdict(constants) for name, constants in sets.items()}
            for platform, sets in MODEL.items()
        },
        "chips": {target.chip.name: _described(target) for target in found},
        "data": dataclasses.asdict(shape),
        "config": config.to_dict(),
        "environment": made_with(_PACKAGES),
    }
    if path is not None:
        atomic.write_json(path, record)
    return record


def _with_execution_and_batch(
    config: ml_collections.ConfigDict, execution: str, batch: int
) -> ml_collections.ConfigDict:
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.compute.execution, changed.batch_size = execution, batch
    # This has no effect on a step, and given shapes have no validation split.
    changed.evaluation.select = "last"
    configuration.validate(changed)
    return changed


def _check(config: ml_collections.ConfigDict, target: Target, shape: DataShape) -> None:
    """Checks all that can be checked before anything is compiled.

    Args:
      config: the configuration of one program.
      target: what it is compiled for.
      shape: the shapes of the data.

    Raises:
      ConfigError: if the program cannot run.
    """
    count = config.compute.devices
    if count > target.devices:
        raise ConfigError(
            f"config.compute.devices is {count}: --target={target.name} has {target.devices}"
        )
    device: Any = SimpleNamespace(platform=target.chip.platform, device_kind=target.chip.title)
    devices = (device,) * (count or target.devices)
    resolve(config, parallel=Parallel(devices), dataset=shape.dataset())


def _compile(
    target: Target, config: ml_collections.ConfigDict, shape: DataShape, config_file: str
) -> dict[str, Any]:
    """Compiles one program; returns what was asked for and the result."""
    method = "independent" if config.method == "independent" else "ensemble"
    job = Job(
        target.name, method, configuration.to_json(config), config_file, dataclasses.asdict(shape)
    )
    return {
        "target": target.name,
        "network": config.network,
        "students": len(config.student_widths or config.student_scales),
        "asked_execution": config.compute.execution,
        "batch_size": config.batch_size,
        "dtype": config.compute.dtype,
        "method": method,
        **compile_apart(job),
    }


def _described(target: Target) -> dict[str, Any]:
    fields = ("title", "memory", "bandwidth", "flops", "link", "clock", "usable", "source")
    return {name: getattr(CHIPS[target.chip.name], name) for name in fields}

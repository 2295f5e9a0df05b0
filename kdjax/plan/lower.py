"""Compiles exactly the step that a run would take, for devices that are not there."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from kdjax.models.execution import EXECUTIONS, Execution, execution_named
from kdjax.plan.absent import AbsentParallel
from kdjax.plan.estimate import estimate, totals
from kdjax.plan.program import read
from kdjax.plan.stand_in import DataShape
from kdjax.plan.targets import Target
from kdjax.train.tasks.experiment import resolve


def lowered(
    config: ml_collections.ConfigDict,
    method: str,
    target: Target,
    devices: Sequence[jax.Device],
    shape: DataShape,
) -> dict[str, Any]:
    """Compiles a dispatch of training steps and counts what is in it.

    Args:
      config: the run's configuration.
      method: ``ensemble`` or ``independent``.
      target: what it is compiled for.
      devices: the target's devices; ``config.compute.devices`` may ask for fewer.
      shape: the shapes of the data.

    Returns:
      What :func:`kdjax.plan.compiling.compile_here` returns for a program that compiles.
    """
    count = config.compute.devices or len(devices)
    parallel = AbsentParallel(tuple(devices[:count]))
    experiment = resolve(config, parallel=parallel, dataset=shape.dataset())
    if shape.streamed:
        feed: Any = experiment.feed()
    else:
        feed = experiment.resident(*shape.on_devices())
    runner = experiment.runner(method, feed)
    state = runner.place(runner.initial_state(0))
    given = next(runner.epoch(state, 0))
    program, seconds = runner.compile_steps(state, iter([given]))
    held, data = parallel.device_bytes(state), parallel.device_bytes((feed.data, given))
    steps = runner.steps_per_dispatch
    counted = read(program.as_text(), target.chip.platform)
    used = dataclasses.replace(target, devices=count)
    return {
        "compiles": True,
        "seconds": seconds,
        "devices": count,
        "device_kind": devices[0].device_kind,
        "execution": _name(config, experiment.execution),
        "steps_per_dispatch": steps,
        "memory_bytes": _memory(program.memory_analysis(), target, held, data),
        "counts": totals(counted, steps),
        "estimate": estimate(
            counted, used, dtype=config.compute.dtype, steps=steps, batch_size=config.batch_size
        ),
    }


def _name(config: ml_collections.ConfigDict, execution: Execution) -> str:
    """Returns the name of an execution; it shows what `auto` stands for."""
    options = {"lanes": config.compute.lanes, "remat": config.compute.remat}
    return next(name for name in EXECUTIONS if execution_named(name, **options) == execution)


def _memory(analysis: Any, target: Target, state: int, data: int) -> dict[str, float]:
    """Returns bytes on one device: the program's needs, its state and data, and the memory.

    Args:
      analysis: the compiler's memory analysis.
      target: what it is compiled for.
      state: bytes of parameters, optimiser state and statistics.
      data: bytes of the dataset on the device, or, for a stream, of one dispatch's inputs.
    """
    planned = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )
    return {
        "planned": float(planned),
        "state": float(state),
        "data": float(data),
        "activations": float(analysis.temp_size_in_bytes),
        "device": target.chip.memory,
        "usable": target.chip.memory * target.chip.usable,
    }

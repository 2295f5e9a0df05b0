"""The search as a training method: network, teacher, controller and the metrics it reports."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from kdjax import models
from kdjax.config import ConfigError
from kdjax.search import (
    Budget,
    Channels,
    ControllerState,
    LatencyTable,
    TargetError,
    Timetable,
    check_equal_widths,
    check_multiple,
    controlled,
    load_latencies,
    make_budget,
    near_collapse,
    partition,
)
from kdjax.train.program import methods
from kdjax.train.program.methods import Method
from kdjax.train.program.state import TrainState
from kdjax.train.tasks.experiment import Experiment, stage_config

_PERCENTILES = (10, 50, 90)  # Percentiles of all scales that are logged.


def resolve_budget(experiment: Experiment) -> Budget:
    """The targets and blocks of ``config.search``, checked against the network.

    Raises:
      ConfigError: if a target cannot be reached, or a name or a length does not fit.
    """
    config, architecture = experiment.config.search, experiment.architecture
    shape = experiment.dataset.image_shape
    try:
        channels = Channels.of(
            architecture, architecture.widths, shape, root=(models.student_name(1),)
        )
        blocks = partition(
            architecture,
            channels,
            names=config.blocks.names,
            patterns=config.blocks.groups,
            strengths=config.blocks.strengths,
            resources=config.blocks.resources,
            targets=config.blocks.targets,
            frozen=config.blocks.frozen,
        )
        latencies = _latencies(experiment)
        budget = make_budget(
            channels,
            blocks,
            latency=config.target.latency,
            latencies=latencies,
            flops=config.target.flops,
            params=config.target.params,
            schedule=config.schedule,
            order=config.order,
            min_width=config.min_width,
        )
        check_equal_widths(architecture, channels, shape, budget.held)
        check_multiple(budget, config.multiple)
        steps = search_steps(experiment)
        if round(config.descent * steps) < len(budget.slots):
            raise ValueError(
                f"search.epochs is {config.epochs}: that is {steps} steps, of which "
                f"search.descent {config.descent} leaves fewer than one for each of the "
                f"{len(budget.slots)} blocks in turn"
            )
        return budget
    except ValueError as error:
        raise ConfigError(_with_field(error, config)) from None


def _latencies(experiment: Experiment) -> LatencyTable | None:
    """Returns the latency table that the configuration names; None if it names none.

    Raises:
      ValueError: if the table cannot be read, or belongs to another network.
    """
    path, shape = experiment.config.search.latency_table, experiment.dataset.image_shape
    try:
        if not path:
            return None
        return load_latencies(Path(os.path.expanduser(path)), experiment.architecture, shape)
    except ValueError as error:
        raise ValueError(f"search.latency_table: {error}") from None


def _with_field(error: ValueError, config: Any) -> str:
    """Returns the message of an error about the budget, with the field and its value in front."""
    if str(error).startswith("search."):
        return f"config.{error}"
    if isinstance(error, TargetError) and error.constraint in config.target:
        field = error.constraint
        return f"config.search.target.{field} is {config.target[field]:g}: {error}"
    return f"config.search: {error}"


def search_steps(experiment: Experiment) -> int:
    """Returns the training steps of the whole search."""
    return experiment.config.search.epochs * experiment.steps_per_epoch


def search_method(experiment: Experiment, budget: Budget) -> Method:
    """Returns the method that distils the full network and reports cost, widths and penalty."""
    config = experiment.config
    method = methods.from_teacher(
        stage_config(config, config.search.epochs),
        experiment.architecture,
        (experiment.architecture.widths,),
        (True,),
        experiment.parallel.axis_name,
        experiment.execution,
        image_shape=experiment.dataset.image_shape,
        steps_per_epoch=experiment.steps_per_epoch,
    )

    def observe(state: TrainState, metrics: Mapping[str, Any]) -> dict[str, Any]:
        controller: ControllerState = state.optimizer_state.controller
        loss, count = metrics["loss"]
        counts = budget.channels.counts(~controller.dead)
        values = {
            "penalty": controller.penalty,
            "penalty_to_loss": controller.penalty / jnp.maximum(loss / count, 1e-12),
        }
        magnitudes = budget.channels.magnitudes(state.params)
        percentiles = jnp.percentile(magnitudes, jnp.array(_PERCENTILES))
        for percent, scale in zip(_PERCENTILES, percentiles, strict=True):
            values[f"scale/{percent}%"] = scale
        for number, constraint in enumerate(budget.constraints):
            values[f"cost/{constraint.name}"] = controller.share[number]
            values[f"strength/{constraint.name}"] = controller.strength[number]
        for number, group in enumerate(budget.channels.groups):
            values[f"alive/{group.name}"] = counts[number]
        return {name: (value, jnp.float32(1.0)) for name, value in values.items()}

    return dataclasses.replace(method, observe=observe)


def search_optimizer(
    experiment: Experiment, budget: Budget
) -> Callable[[optax.GradientTransformation, optax.Schedule], optax.GradientTransformation]:
    """Returns a function that puts the controller around the configured optimiser."""
    config, steps = experiment.config.search, search_steps(experiment)
    timetable = Timetable(steps, max(1, round(config.descent * steps)))

    def wrap(optimizer: optax.GradientTransformation, schedule: optax.Schedule):
        return controlled(
            optimizer,
            budget,
            timetable=timetable,
            learning_rate=schedule,
            threshold=config.threshold,
            cost_exponent=config.cost_exponent,
            criterion=config.criterion,
        )

    return wrap


class Monitor:
    """Watches the records of a search and warns the user.

    It warns once if no channel has died although some should have, and once when the first groups
    are almost gone.
    """

    def __init__(self, budget: Budget, steps: int, descent: float, say: Callable[[str], None]):
        self._budget, self._say = budget, say
        # From this step on, the planned cost is well below the full cost.
        self._from = 0.35 * descent * steps / len(budget.slots)
        self._full = {f"alive/{g.name}": g.channels for g in budget.channels.groups}
        self._looked = False
        self._warned = False

    def __call__(self, step: int, values: Mapping[str, Any]) -> None:
        if not self._full.keys() <= values.keys():  # Every step since the last record was skipped.
            return
        widths = {g.name: round(values[f"alive/{g.name}"]) for g in self._budget.channels.groups}
        if not self._warned and (thin := near_collapse(self._budget, widths)):
            self._warned = True
            self._say(
                f"search: {thin}, at step {step}. In a longer search (config.search.epochs) widths "
                "follow the loss more closely; config.search.min_width sets the minimum width"
            )
        if self._looked or step < self._from:
            return
        self._looked = True
        if all(values[name] >= channels - 1e-3 for name, channels in self._full.items()):
            strengths = ", ".join(
                f"{c.name} {values[f'strength/{c.name}']:.3g}" for c in self._budget.constraints
            )
            self._say(
                f"search: no channel has died by step {step}. The penalty is "
                f"{values['penalty_to_loss']:.2g} of the loss (strength: {strengths}) and still "
                "growing; a longer search (config.search.epochs) or a higher "
                "config.search.learning_rate gives it more time to act"
            )


def importance_and_deaths(state: TrainState) -> tuple[np.ndarray, np.ndarray]:
    """``(importance, died)`` of the units of a finished search, on the host."""
    controller = state.optimizer_state.controller
    return np.asarray(controller.importance), np.asarray(controller.died)

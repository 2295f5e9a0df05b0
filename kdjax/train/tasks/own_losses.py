"""Tries a user's own losses before anything is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdjax.config import ConfigError
from kdjax.train.program.methods import Method
from kdjax.train.program.objective import LossError
from kdjax.train.program.trial import trace_step
from kdjax.train.run import own_terms
from kdjax.train.tasks.experiment import Experiment


def try_own_losses(
    experiment: Experiment,
    path: Path,
    method: Callable[[], Method],
    teacher: Callable[[], Any] = lambda: None,
) -> None:
    """Traces a step of a method on shapes, if a user has written one of its losses.

    Otherwise a mistake would be found after the teacher's training, in a workdir that belongs to
    the loss that failed. A workdir that has begun is left alone: its losses have not changed.

    Args:
      experiment: the experiment.
      path: the workdir.
      method: returns the method that uses the losses.
      teacher: returns the shapes of the fixed teacher's variables, if the method has one.

    Raises:
      ConfigError: if a loss fails, does not return what it should, or has no gradient.
    """
    config = experiment.config
    own = own_terms.names(config)
    if not own or (path / "config.json").exists():
        return
    variables = teacher()
    try:
        trace_step(
            method(),
            experiment.dataset.image_shape,
            experiment.parallel,
            batch_size=config.batch_size,
            train_size=experiment.dataset.sizes["train"],
            mixed=config.data.mixup > 0 or config.data.cutmix > 0,
            joined_losses=config.compute.batch_losses == "global",
            teacher=variables,
        )
    except LossError as error:
        raise ConfigError(str(error)) from error
    except Exception as error:  # Losses and modules of users may raise anything.
        names = " or ".join(f"config.weights.{name}" for name in own)
        text = str(error).partition("\n")[0]
        raise ConfigError(
            f"a step with the loss of {names} fails: {type(error).__name__}: {text}"
        ) from error

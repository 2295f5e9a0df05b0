"""Tries a user's own losses before anything is trained."""

from collections.abc import Callable
from typing import Any

from kdjax.config import ConfigError
from kdjax.train.program.methods import Method
from kdjax.train.program.trial import trace_losses
from kdjax.train.run import own_terms
from kdjax.train.tasks.experiment import Experiment


def try_own_losses(
    experiment: Experiment, method: Callable[[], Method], teacher: Callable[[], Any] = lambda: None
) -> None:
    """Traces the losses of a method on shapes, if a user has written one of them.

    Otherwise a mistake would be found after the teacher's training, in a workdir that belongs to
    the loss that failed.

    Args:
      experiment: the experiment.
      method: returns the method that uses the losses.
      teacher: returns the shapes of the fixed teacher's variables, if the method has one.

    Raises:
      ConfigError: if a loss does not return what it should. Anything else that a loss raises is
        passed on.
    """
    config = experiment.config
    if not own_terms.names(config):
        return
    try:
        trace_losses(
            method(),
            experiment.dataset.image_shape,
            batch_size=config.batch_size // len(experiment.parallel.devices),
            train_size=experiment.dataset.sizes["train"],
            mixed=config.data.mixup > 0 or config.data.cutmix > 0,
            axis_name=experiment.parallel.axis_name,
            joined_losses=config.compute.batch_losses == "global",
            teacher=teacher(),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error

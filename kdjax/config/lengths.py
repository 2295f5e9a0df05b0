"""Shortens warm-up and ramps in runs that are too short for them, such as a test of one epoch."""

import ml_collections

from kdjax.config.tasks import flatten, task_of

_WARMED = {
    "train": ("epochs",),
    "search": ("teacher.epochs", "distil.epochs"),
    "distill": ("teacher.epochs", "epochs"),
}
_RAMPED = {
    "train": ("epochs",),
    "search": ("search.epochs", "distil.epochs"),
    "distill": ("epochs",),
}


def warmup_epochs(wanted: float, epochs: int) -> float:
    """Returns ``wanted``, or half the run if ``wanted`` is as long as the run or longer."""
    return wanted if wanted < epochs else epochs / 2


def ramp_epochs(wanted: float, epochs: int) -> float:
    """Returns ``wanted``, but at most the whole run, so that the ramp ends with the run."""
    return min(wanted, epochs)


def shortened(config: ml_collections.ConfigDict, *, given_teacher: bool = False) -> list[str]:
    """One line for each length that does not fit into the run: its value, and what is used instead.

    Args:
      config: a configuration of any task.
      given_teacher: whether a trained teacher is given, so that none is trained.
    """
    values = dict(flatten(config))
    task, warmup, lines = task_of(config), config.schedule.warmup_epochs, []
    for name in _WARMED[task]:
        if name == "teacher.epochs" and (given_teacher or config.teacher.workdir):
            continue  # No teacher is trained, so this stage does not exist.
        if warmup and (taken := warmup_epochs(warmup, values[name])) != warmup:
            lines.append(
                f"config.schedule.warmup_epochs is {warmup:g}, not below config.{name}, "
                f"{values[name]}: the warm-up takes half of that, {taken:g}"
            )
    terms = [] if config.get("method") == "independent" else growing(config)
    ramp = config.weight_ramp.epochs
    for name in _RAMPED[task] if terms else ():
        if (taken := ramp_epochs(ramp, values[name])) != ramp:
            lines.append(
                f"config.weight_ramp.epochs is {ramp:g}, above config.{name}, {values[name]}: "
                f"the growth of {' and '.join(f'weights.{term}' for term in terms)} "
                f"takes {taken:g}, the whole {'run' if name == 'epochs' else 'stage'}"
            )
    return lines


def growing(config: ml_collections.ConfigDict) -> list[str]:
    """The terms that are switched on and whose weights grow during training."""
    return [
        term
        for term, weight in config.weights.items()
        if weight and config.weight_ramp[term] != "constant"
    ]

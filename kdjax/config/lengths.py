"""Warm-up and ramps in runs that are shorter than they are, such as a first try of one epoch."""

import ml_collections

from kdjax.config.kinds import flatten, kind

_STAGES = {"train": ("epochs",), "search": ("teacher.epochs", "distil.epochs")}


def warmup_epochs(wanted: float, epochs: int) -> float:
    """``wanted``, or half the run where that is no shorter than the run."""
    return wanted if wanted < epochs else epochs / 2


def ramp_epochs(wanted: float, epochs: int) -> float:
    """``wanted``, or the whole run where that is longer: the weights are reached at its end."""
    return min(wanted, epochs)


def shortened(config: ml_collections.ConfigDict) -> list[str]:
    """One line for each length that does not fit into the run: what it is, and what is taken."""
    values = dict(flatten(config))
    warmup, lines = config.schedule.warmup_epochs, []
    for name in _STAGES[kind(config)]:
        if warmup and (taken := warmup_epochs(warmup, values[name])) != warmup:
            lines.append(
                f"config.schedule.warmup_epochs is {warmup:g}, not below config.{name}, "
                f"{values[name]}: the warm-up takes half of that, {taken:g}"
            )
    if kind(config) == "train" and config.method != "independent":
        ramp = config.weight_ramp.epochs
        terms = [
            term
            for term, weight in config.weights.items()
            if weight and config.weight_ramp[term] != "constant"
        ]
        if terms and (taken := ramp_epochs(ramp, config.epochs)) != ramp:
            lines.append(
                f"config.weight_ramp.epochs is {ramp:g}, above config.epochs, {config.epochs}: "
                f"the growth of {' and '.join(f'weights.{term}' for term in terms)} "
                f"takes {taken:g}, the whole run"
            )
    return lines

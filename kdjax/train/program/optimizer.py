"""Builds optax optimisers and schedules from a configuration."""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax

from kdjax.config import warmup_epochs


def learning_rate_schedule(
    config: ml_collections.ConfigDict, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns a function from the step to the learning rate.

    A warm-up that is as long as the run, or longer, is cut to half of the run.

    Args:
      config: ``config.schedule``.
      epochs: the epochs of the whole run.
      steps_per_epoch: steps in one epoch.

    References:
      ``step`` with factor .1 at .5 and .75: Walawalkar, Shen, Savvides, ECCV 2020, section 4.
      ``exponential`` with factor .97: Tan, Le, *EfficientNet*, ICML 2019, section 5.
    """
    peak, total = config.learning_rate, epochs * steps_per_epoch
    warmup = round(warmup_epochs(config.warmup_epochs, epochs) * steps_per_epoch)
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "step": lambda: _step(peak, total, config.boundaries, config.factor),
        "cosine": lambda: _cosine(peak, total, warmup, config.final),
        "exponential": lambda: optax.exponential_decay(
            peak,
            max(1, round(config.every_epochs * steps_per_epoch)),
            config.factor,
            staircase=True,
        ),
    }
    schedule = schedules[config.name]()
    if warmup == 0:
        return schedule
    # The warm-up scales the schedule and does not delay it: drops stay at their share of the run.
    # Only a cosine starts after the warm-up, at its peak.
    return lambda step: schedule(step) * jnp.minimum(1.0, (step + 1) / warmup)


def _step(peak: float, total: int, boundaries: Sequence[float], factor: float) -> optax.Schedule:
    drops: dict[int, float] = {}
    for share in boundaries:  # In a very short run two boundaries may fall on one step.
        step = round(share * total)
        drops[step] = drops.get(step, 1.0) * factor
    return optax.piecewise_constant_schedule(peak, drops)


def _cosine(peak: float, total: int, warmup: int, final: float) -> optax.Schedule:
    decay = optax.cosine_decay_schedule(peak, max(1, total - warmup), final)
    return lambda step: decay(jnp.maximum(step - warmup, 0))


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule, *, separate: bool
) -> optax.GradientTransformation:
    """Makes the optimiser that ``config.optimizer`` describes.

    Weight decay acts on kernels only. In ``sgd``, ``adam`` and ``rmsprop`` it is added to the
    gradient (L2); in ``adamw`` it is decoupled.

    Args:
      config: ``config.optimizer``.
      schedule: a function from the step to the learning rate.
      separate: whether the top level of the parameters holds networks that must not influence each
        other. Then gradients are clipped by each network's own norm.

    References:
      Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019, algorithm 2.
    """
    adam = {"b1": config.b1, "b2": config.b2, "eps": config.eps}
    recipes: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.sgd(schedule, config.momentum or None, config.nesterov),
        "adam": lambda: optax.adam(schedule, **adam),
        "adamw": lambda: optax.adamw(
            schedule, **adam, weight_decay=config.weight_decay, mask=is_kernel
        ),
        "rmsprop": lambda: optax.rmsprop(
            schedule, decay=config.b2, eps=config.eps, momentum=config.momentum or None
        ),
    }
    parts = []
    if config.clip_norm > 0:
        clip = optax.clip_by_global_norm(config.clip_norm)
        parts.append(_for_each_network(clip) if separate else clip)
    if config.weight_decay > 0 and config.name != "adamw":
        parts.append(optax.add_decayed_weights(config.weight_decay, is_kernel))
    return optax.chain(*parts, recipes[config.name]())


def is_kernel(params: chex.ArrayTree) -> chex.ArrayTree:
    """A tree of booleans: True for leaves named ``kernel``, False for scales and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _for_each_network(clip: optax.GradientTransformation) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        return {name: clip.update(tree, state)[0] for name, tree in updates.items()}, state

    return optax.GradientTransformation(clip.init, update)

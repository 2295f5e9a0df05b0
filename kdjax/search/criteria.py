"""Criteria: named measures of how much a channel is worth, computed in every step.

A criterion gives every unit a number of at least 0. Only its ratio to the numbers of the other
units in the group matters. The controller pushes a unit's scales so that, within a group, units die
in the order of these numbers. How strongly each group is pushed depends on the cost
(:mod:`kdjax.search.controller`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from kdjax.search.channels import Channels


class Evidence(NamedTuple):
    """The data that a criterion may use.

    Attributes:
      scales: ``[contributors, units]`` the scales after the optimiser's update.
      params: tree of the parameters before the update.
      gradients: tree of the gradients of this step's loss.
    """

    scales: chex.Array
    params: Any
    gradients: Any


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A way to measure what a unit is worth.

    Attributes:
      measure: ``(channels, evidence) -> [units]`` float32, none negative.
      memory: share of the earlier average that a step keeps; with 0 only the current step counts.
    """

    measure: Callable[[Channels, Evidence], chex.Array]
    memory: float = 0.0


def by_scale(channels: Channels, evidence: Evidence) -> chex.Array:
    """The sum of ``|scale|`` over a unit's contributors.

    References:
      Liu et al., *Learning Efficient Convolutional Networks through Network Slimming*, ICCV 2017.
    """
    del channels
    return jnp.sum(jnp.abs(evidence.scales), axis=0)


def by_taylor(channels: Channels, evidence: Evidence) -> chex.Array:
    """``|sum scale * gradient|``: to first order, the change of the loss without the unit.

    References:
      Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, section 3.2
      (gates in the paper; here the scales of the normalisations).
    """
    slope = channels.scales(evidence.gradients)
    return jnp.abs(jnp.sum(channels.scales(evidence.params) * slope, axis=0))


def by_magnitude(channels: Channels, evidence: Evidence) -> chex.Array:
    """The sum of the norms of the filters that write a unit, each relative to its layer's mean.

    References:
      Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017 (the paper uses the 1-norm).
    """

    def norms(filters: chex.Array) -> chex.Array:
        return jnp.sqrt(jnp.sum(jnp.square(filters), axis=1))

    return _of_filters(channels, evidence, norms)


def by_fpgm(channels: Channels, evidence: Evidence) -> chex.Array:
    """The sum of the distances from a filter to all others of its layer, over the layer's mean.

    A filter near the geometric median can be replaced by the other filters.

    References:
      He et al., *Filter Pruning via Geometric Median*, CVPR 2019, equation 7.
    """

    def distances(filters: chex.Array) -> chex.Array:
        squares = jnp.sum(jnp.square(filters), axis=1)
        between = squares[:, None] + squares[None] - 2 * filters @ filters.T
        return jnp.sum(jnp.sqrt(jnp.maximum(between, 0.0)), axis=1)

    return _of_filters(channels, evidence, distances)


def by_chance(channels: Channels, evidence: Evidence) -> chex.Array:
    """Random numbers, the same in every step and run: the baseline for the other criteria."""
    del evidence
    drawn = np.random.default_rng(0).uniform(0.05, 1.0, len(channels.group_of))
    return jnp.asarray(drawn, jnp.float32)


CRITERIA: Mapping[str, Criterion] = {
    "scale": Criterion(by_scale),
    "taylor": Criterion(by_taylor, memory=0.9),
    "fpgm": Criterion(by_fpgm),
    "magnitude": Criterion(by_magnitude),
    "random": Criterion(by_chance),
}


def _of_filters(
    channels: Channels, evidence: Evidence, measure: Callable[[chex.Array], chex.Array]
) -> chex.Array:
    """The sum ``[units]`` of ``measure`` over the kernels that write a unit.

    ``measure`` maps the filters of a kernel, ``[filters, weights]``, to ``[filters]``. The result
    is divided by its mean over the kernel.
    """
    flat = flax.traverse_util.flatten_dict(evidence.params)
    vectors = []
    for path in channels.kernel_paths:
        kernel = flat[path]
        measured = measure(kernel.reshape(-1, kernel.shape[-1]).T)
        vectors.append(measured / jnp.maximum(jnp.mean(measured), 1e-12))
    return jnp.sum(channels.arranged_outputs(vectors), axis=0)

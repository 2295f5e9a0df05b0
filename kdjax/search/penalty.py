"""The cost of a network with some of its channels alive, and the penalty on their scales.

Both follow one formula. A layer with cost C per connection and c per output channel contributes

    cost    = C * alive_in * alive_out                                        + c * alive_out
    penalty = C * (alive_in * sum|scale_out| + alive_out * sum|scale_in|)     + c * sum|scale_out|

where a side that cannot be thinned (the image, the classes, a group without normalisation) counts
all its channels and contributes no sum. In a depthwise or grouped convolution each output channel
has a fixed number u of inputs, so cost = C * u * alive and penalty = C * u * (sum|scale_out| +
sum|scale_in|), both sums over the same tied group. The penalty treats the numbers of alive channels
as constants. If every scale is 0 or 1, a layer's penalty is its cost times the number of its sides
that are regularised (the part with c counts once).

References:
  Gordon et al., *MorphNet*, CVPR 2018, equations 4 to 6; the part for biases and normalisations
  (they count as parameters) is ours.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from kdjax import tracing
from kdjax.search.channels import Channels
from kdjax.tracing.counting import Side

RESOURCES = ("flops", "params")  # They are counted; time is measured (kdjax.search.latency).
COUNTED_AS = {"flops": "macs", "params": "params"}


@dataclasses.dataclass(frozen=True, eq=False)
class CostModel:
    """Costs of a set of layers, as sums of terms, relative to the full network.

    Attributes:
      resource: ``flops``, ``params`` or ``latency``.
      full: the cost of the layers with all channels, in FLOPs, parameters or microseconds.
      constant: ``[terms]`` cost of one pair of a channel read and a channel written, over ``full``.
      reads, writes: ``[terms, groups + 1]`` channels on each side for each living channel of a
        group; the last column holds the channels that stay.
      sources: ``[terms, groups]`` the channels that a layer reads, if it loses whole groups. Its
        cost does not depend on them, but its penalty acts on them too.
    """

    resource: str
    full: float
    constant: np.ndarray
    reads: np.ndarray
    writes: np.ndarray
    sources: np.ndarray

    @classmethod
    def of(
        cls, resource: str, channels: Channels, layers: Collection[int] | None = None
    ) -> "CostModel":
        """The cost model of a network, or of some of its layers.

        Args:
          resource: ``flops`` or ``params``.
          channels: the layout of the network.
          layers: numbers of the layers that count; None for all.
        """
        terms = tracing.terms(channels.traced, COUNTED_AS[resource])
        return cls.of_terms(resource, channels, terms, layers, 2 if resource == "flops" else 1)

    @classmethod
    def of_terms(
        cls,
        resource: str,
        channels: Channels,
        terms: tracing.Terms,
        layers: Collection[int] | None = None,
        factor: float = 1,
    ) -> "CostModel":
        """The cost model for a cost that is given by its terms.

        Args:
          resource: name of the resource.
          channels: the layout of the network.
          terms: terms of the network's layers.
          layers: numbers of the layers that count; None for all.
          factor: a factor that multiplies all terms.
        """
        chosen = np.isin(terms.layer, list(terms.layer if layers is None else layers))
        sides = [_dense(side, channels) for side in (terms.reads, terms.writes, terms.sources)]
        rows = np.concatenate([side[chosen] for side in sides], axis=1)
        # Terms that depend on the channels in the same way, such as scale and bias, are joined.
        rows, place = np.unique(rows, axis=0, return_inverse=True)
        constant = factor * np.bincount(place.ravel(), terms.constant[chosen], len(rows))
        reads, writes, sources = np.split(rows, 3, axis=1)
        everything = np.array([group.channels for group in channels.groups] + [1], float)
        full = float((constant * (reads @ everything) * (writes @ everything)).sum())
        full = round(full) if resource in RESOURCES else full
        return cls(resource, full, constant / full, reads, writes, sources[:, :-1])

    def cost(self, counts: chex.Array | np.ndarray) -> chex.Array:
        """Scalar: the share of the full cost left with ``counts [groups]`` channels alive."""
        reads, writes = self._sides(counts)
        return (self.constant * reads * writes).sum()

    def coefficients(self, counts: chex.Array) -> chex.Array:
        """``[groups]``: what one more unit of sum|scale| in a group adds to the penalty."""
        reads, writes = self._sides(counts)
        dot = _dot(counts)
        by_writing = dot(self.writes[:, :-1].T, self.constant * reads)
        by_reading = dot(self.reads[:, :-1].T, self.constant * writes)
        return by_writing + by_reading + dot(self.sources.T, self.constant)

    def _sides(self, counts: chex.Array) -> tuple[chex.Array, chex.Array]:
        dot = _dot(counts)
        extended = (np if isinstance(counts, np.ndarray) else jnp).append(counts, 1.0)
        return dot(self.reads, extended), dot(self.writes, extended)


def _dot(counts: chex.Array | np.ndarray) -> Callable[..., Any]:
    # On the host NumPy computes in float64. This is fast enough to try thousands of width vectors.
    if isinstance(counts, np.ndarray):
        return np.dot
    return functools.partial(jnp.dot, precision="highest")


def _dense(side: Side, channels: Channels) -> np.ndarray:
    """A dense matrix ``[terms, groups + 1]``; the last column holds the channels that stay."""
    column = {group.name: number for number, group in enumerate(channels.groups)}
    found = np.zeros((len(side.fixed), len(channels.groups) + 1))
    found[:, -1] = side.fixed
    for number, group in enumerate(channels.traced.groups):
        own = side.group == number
        if group.name in column:
            target, share = column[group.name], 1 / group.unit_size
        else:
            target, share = -1, group.units
        np.add.at(found[:, target], side.term[own], share * side.channels[own])
    return found

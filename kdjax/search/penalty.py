"""What a network with only some of its channels alive costs, and the sparsity penalty on scales.

One formula for both. A layer with cost C per connection and c per output channel contributes

    cost    = C * alive_in * alive_out                                        + c * alive_out
    penalty = C * (alive_in * sum|scale_out| + alive_out * sum|scale_in|)     + c * sum|scale_out|

where a side that cannot be thinned (the image, the classes, a group without normalisation) counts
its channels and contributes no sum. In a depthwise or grouped convolution each output channel has a
fixed number u of inputs, so cost = C * u * alive and penalty = C * u * (sum|scale_out| +
sum|scale_in|), both sums over the same tied group. In the penalty alive counts are constants.
With every scale 0 or 1, a layer's penalty is its cost times the number of its sides that are
regularised (its own part counting once).

References:
  Gordon et al., *MorphNet*, CVPR 2018, equations 4 to 6; the part for biases and normalisations
  (they count as parameters) is ours.
"""

import dataclasses
from collections.abc import Sequence

import chex
import jax.numpy as jnp
import numpy as np

from kdjax.costs import Layer
from kdjax.search.channels import Channels

RESOURCES = ("flops", "params")
COUNTED_AS = {"flops": "macs", "params": "params"}


@dataclasses.dataclass(frozen=True, eq=False)
class CostModel:
    """Costs of a set of layers, as arrays over layers, relative to the full network.

    Attributes:
      resource: ``flops`` or ``params``.
      full: the cost of the layers with all channels, in FLOPs or parameters.
      connection: ``[layers]`` cost of a connection, over ``full``.
      output: ``[layers]`` own cost of an output channel, over ``full``.
      source, target: ``[layers]`` index of the group read and written; ``groups`` for a constant.
      grouped: ``[layers]`` bool, inputs per output channel fixed.
      groups: number of groups.
    """

    resource: str
    full: int
    connection: np.ndarray
    output: np.ndarray
    source: np.ndarray
    target: np.ndarray
    grouped: np.ndarray
    groups: int

    @classmethod
    def of(cls, resource: str, channels: Channels, layers: Sequence[Layer]) -> "CostModel":
        """The model of some layers of the network that ``channels`` describes."""
        index = {
            member: number
            for number, group in enumerate(channels.groups)
            for member in group.members
        }
        constant = len(channels.groups)
        counted = COUNTED_AS[resource]
        factor = 2 if resource == "flops" else 1
        full = factor * sum(layer.cost(counted) for layer in layers)
        source = np.array([index.get(str(layer.in_group), constant) for layer in layers], np.int32)
        target = np.array([index.get(str(layer.out_group), constant) for layer in layers], np.int32)
        connection, output = [], []
        for layer, read, written in zip(layers, source, target, strict=True):
            if layer.groups > 1:
                inputs = layer.in_channels // layer.groups
            else:
                inputs = layer.in_channels if read == constant else 1
            outputs = layer.out_channels if written == constant else 1
            connection.append(factor * layer.per_connection(counted) * inputs * outputs / full)
            output.append(factor * layer.per_output(counted) * outputs / full)
        return cls(
            resource,
            full,
            np.array(connection),
            np.array(output),
            source,
            target,
            np.array([layer.groups > 1 for layer in layers]),
            constant,
        )

    def cost(self, counts: chex.Array | np.ndarray) -> chex.Array:
        """Scalar: the share of the full cost that is left with ``counts [groups]`` alive."""
        reads, writes = self._sides(counts)
        return (self.connection * reads * writes + self.output * writes).sum()

    def coefficients(self, counts: chex.Array) -> chex.Array:
        """``[groups]``: what one more unit of sum|scale| in a group adds to the penalty."""
        reads, writes = self._sides(counts)
        other = jnp.where(self.grouped, 1.0, writes)
        total = jnp.zeros(self.groups + 1)
        total = total.at[self.target].add(self.connection * reads + self.output)
        total = total.at[self.source].add(self.connection * other)
        return total[: self.groups]

    def penalty(self, counts: chex.Array, sums: chex.Array) -> chex.Array:
        """Scalar: the penalty, relative to the full cost.

        Args:
          counts: ``[groups]`` alive channels, constants for the gradient.
          sums: ``[groups]`` sum over a group's channels of |scale|, the largest of its
            contributors where an addition ties several.
        """
        return jnp.sum(self.coefficients(counts) * sums)

    def _sides(self, counts: chex.Array) -> tuple[chex.Array, chex.Array]:
        # On the host it is NumPy's float64: cheap enough to try thousands of width vectors.
        array = np if isinstance(counts, np.ndarray) else jnp
        extended = array.append(counts, 1.0)
        return array.where(self.grouped, 1.0, extended[self.source]), extended[self.target]


def penalty(
    model: CostModel, channels: Channels, params: chex.ArrayTree, threshold: float
) -> chex.Array:
    """Scalar, differentiable: the penalty of a network's scales, relative to its full cost.

    Args:
      model: of the layers and the resource to penalise.
      channels: the layout of the scales.
      params: of the network, under ``channels.root``.
      threshold: a channel is alive where its largest |scale| is above it.

    References:
      Gordon et al., *MorphNet*, CVPR 2018, equation 6.
    """
    magnitudes = channels.magnitudes(params)
    counts = channels.counts(magnitudes > threshold)
    return model.penalty(counts, channels.counts(magnitudes))

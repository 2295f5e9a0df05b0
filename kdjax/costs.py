"""What a network costs.

:func:`count` asks the architecture, which follows its own forward pass; everything that is reported
about size comes from there. Families that can be searched also describe themselves by a table of
:class:`Layer`: the search's costs and penalties are sums over it, and a test holds the two
together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or dense layer, with the batch normalisation that follows it.

    Attributes:
      path: where its parameters are in the variables of the built network.
      in_group: the channel group it reads; None for the image.
      out_group: the channel group it writes; None for the classes.
      in_channels, out_channels: the groups' widths.
      kernel: (height, width) in pixels; (1, 1) for a dense layer.
      out_size: (height, width) of its output in pixels; (1, 1) for a dense layer.
      groups: of a grouped convolution; equal to the channels for a depthwise one.
      bias: whether it has a bias.
      norm: whether a batch normalisation with scale and bias follows.
    """

    path: tuple[str, ...]
    in_group: str | None
    out_group: str | None
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    norm: bool = False

    def per_connection(self, resource: str) -> int:
        """What one connection of an input to an output channel costs, in ``params`` or ``macs``."""
        taps = self.kernel[0] * self.kernel[1]
        positions = {"params": 1, "macs": self.out_size[0] * self.out_size[1]}
        return taps * positions[resource]

    def per_output(self, resource: str) -> int:
        """What an output channel costs by itself: its bias, and its normalisation."""
        return {"params": self.bias + 2 * self.norm, "macs": 0}[resource]

    def cost(self, resource: str) -> int:
        """The layer's cost. The search's penalty is made of the same two numbers."""
        connections = self.in_channels // self.groups * self.out_channels
        own = self.out_channels * self.per_output(resource)
        return self.per_connection(resource) * connections + own

    @property
    def params(self) -> int:
        """Trainable parameters, those of the normalisation included."""
        return self.cost("params")

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; padding taps count, element-wise work does not."""
        return self.cost("macs")

    @property
    def activations(self) -> int:
        """Numbers the convolution or dense layer outputs for one image."""
        return self.out_channels * self.out_size[0] * self.out_size[1]


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network: trainable ``params``; ``macs`` and ``activations`` for one image."""

    params: int
    macs: int
    activations: int

    @property
    def flops(self) -> int:
        """Floating-point operations for one image: two per multiply-accumulate."""
        return 2 * self.macs


class HasLayers(Protocol):
    """Anything that can describe itself as a layer table."""

    def layers(
        self, widths: Mapping[str, int], image_shape: tuple[int, int, int]
    ) -> tuple[Layer, ...]: ...


class Costed(Protocol):
    """Anything that can say what a network with some widths costs."""

    def cost(self, widths: Mapping[str, int], image_shape: tuple[int, int, int]) -> Cost: ...


def count(
    architecture: Costed,
    widths: Mapping[str, int],
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Cost:
    """Counts the deployable network with these widths.

    Args:
      architecture: a :class:`kdjax.models.Architecture`.
      widths: its width vector.
      image_shape: (height, width, channels) of the input.

    Returns:
      The :class:`Cost`; the CIFAR ResNet20 at 10 classes has 272,474 parameters.

    Raises:
      ValueError: if the widths do not fit the architecture.
    """
    return architecture.cost(widths, image_shape)

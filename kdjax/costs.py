"""The cost of a network.

:func:`count` asks the architecture, which traces its own forward pass. All reported sizes come from
there, and so do the costs and penalties of the search.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


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


class Costed(Protocol):
    """Anything that can compute the cost of a network with given widths."""

    def cost(self, widths: Mapping[str, int], image_shape: tuple[int, int, int]) -> Cost: ...


def count(
    architecture: Costed,
    widths: Mapping[str, int],
    image_shape: Sequence[int] = (32, 32, 3),
) -> Cost:
    """Counts the cost of the deployable network with these widths.

    Args:
      architecture: a :class:`kdjax.models.Architecture`.
      widths: its width vector.
      image_shape: (height, width, channels) of the input.

    Returns:
      The :class:`Cost`; the CIFAR ResNet20 at 10 classes has 272,474 parameters.

    Raises:
      ValueError: if the widths do not fit the architecture.
    """
    height, width, channels = image_shape
    return architecture.cost(widths, (height, width, channels))

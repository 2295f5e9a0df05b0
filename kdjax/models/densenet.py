"""DenseNet-BC: every layer of a dense block reads all maps before it, and adds a few channels.

Channel groups: ``stem``; ``blockB.layerL.bottleneck`` (a layer's 1x1 convolution) and
``blockB.layerL.growth`` (the channels it adds); ``transitionB`` (the 1x1 convolution between two
blocks, which halves the channels). A student's growth is scaled and floored. Its bottlenecks are
four times as wide as its growth; its transitions write half of the channels they read, floored. The
stem keeps its width.

There are two kinds. For images of about 32 pixels, the stem is a bare 3x3 convolution with twice
the growth as channels, and there are three blocks. For ImageNet (``densenet121``), the stem is a
7x7 convolution at stride 2, BatchNorm, ReLU and 3x3 max pooling, and there are four blocks. A block
ends after its transition, pooling included. The last block has none: it ends before the BatchNorm
and ReLU in front of the classifier. The paper of the ensemble takes features after three blocks. It
says nothing about the four blocks of densenet121, and its code lacks this network; kdjax takes a
map after each of the four. There is no dropout. As in torchvision, pooling between blocks leaves
out the last row or column of an odd size.

Names in torchvision's ``densenet121``: ``features.conv0`` and ``norm0`` are ``stem/conv/conv`` and
``norm``; ``features.denseblockB.denselayerL.norm1, conv1, norm2, conv2`` are
``branch/blockB_layerL/bottleneck/norm, conv`` and ``growth/norm, conv``;
``features.transitionB.norm, conv`` are ``branch/transitionB/norm, conv``; ``features.norm5`` is
``branch/norm``.

References:
  Huang, Liu, van der Maaten, Weinberger, *Densely Connected Convolutional Networks*, CVPR 2017,
  section 3, table 1 (DenseNet-121).
  Walawalkar, Shen, Savvides, ECCV 2020 (students).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.heads import pooled_logits
from kdjax.models.layers import BareConv, ConvNorm, NormConv, max_pool
from kdjax.models.normalization import BatchNorm
from kdjax.widths import WidthVector, scale

_BOTTLENECK = 4  # Channels of a bottleneck for each channel that its layer adds.


class Variant(NamedTuple):
    """Layers of each block, channels that a layer adds, and the stem's channels and kind."""

    layers: tuple[int, ...]
    growth: int
    stem: int
    imagenet: bool = False


VARIANTS: Mapping[str, Variant] = {
    "densenet_bc_100_12": Variant((16, 16, 16), 12, 24),
    "densenet_bc_190_40": Variant((31, 31, 31), 40, 80),
    "densenet_bc_250_24": Variant((41, 41, 41), 24, 48),
    "densenet121": Variant((6, 12, 24, 16), 32, 64, imagenet=True),
}


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The shape of a dense block: (bottleneck, growth) of each layer, and its transition if any."""

    name: str
    layers: tuple[tuple[int, int], ...]
    transition: int | None


@dataclasses.dataclass(frozen=True)
class DenseNet(Architecture):
    """A DenseNet-BC; ``layers_per_block`` has an entry for each dense block."""

    layers_per_block: tuple[int, ...] = (16, 16, 16)
    imagenet: bool = False

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(f"block{block}" for block in range(1, len(self.layers_per_block) + 1))

    def scaled(self, width: float) -> Self:
        return dataclasses.replace(self, widths=self._scale(width))

    def student(self, factor: float) -> WidthVector:
        return self._scale(factor, self.shared)

    def _scale(self, factor: float, keep: tuple[str, ...] = ()) -> WidthVector:
        free = {"stem": self.widths["stem"], "growth": self.widths["block1.layer1.growth"]}
        scaled = scale(free, factor, keep)
        return width_vector(self.layers_per_block, scaled["growth"], scaled["stem"])

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        return Stem(widths["stem"], self.imagenet, **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        return Branch(tuple(self.plan(widths)), self.num_classes, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[BlockPlan]:
        """The dense blocks in order."""
        for block, layers in enumerate(self.layers_per_block, start=1):
            names = [f"block{block}.layer{layer}" for layer in range(1, layers + 1)]
            yield BlockPlan(
                f"block{block}",
                tuple((widths[f"{name}.bottleneck"], widths[f"{name}.growth"]) for name in names),
                widths.get(f"transition{block}"),
            )


def width_vector(layers_per_block: tuple[int, ...], growth: int, stem: int) -> WidthVector:
    """The width vector for a growth, from which all widths but the stem's follow.

    Args:
      layers_per_block: dense layers of each block.
      growth: channels that each layer adds.
      stem: channels of the stem.
    """
    groups, channels = {"stem": stem}, stem
    for block, layers in enumerate(layers_per_block, start=1):
        for layer in range(1, layers + 1):
            groups[f"block{block}.layer{layer}.bottleneck"] = _BOTTLENECK * growth
            groups[f"block{block}.layer{layer}.growth"] = growth
            channels += growth
        if block < len(layers_per_block):
            channels //= 2
            groups[f"transition{block}"] = channels
    return WidthVector(groups)


def create(name: str, num_classes: int) -> DenseNet:
    """The full network of a name in :data:`VARIANTS`."""
    variant = VARIANTS[name]
    widths = width_vector(variant.layers, variant.growth, variant.stem)
    return DenseNet(name, num_classes, widths, variant.layers, variant.imagenet)


class Stem(nn.Module):
    """Only a 3x3 convolution; for ImageNet 7x7 at stride 2, BatchNorm, ReLU, max pooling."""

    channels: int
    imagenet: bool = False
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        if not self.imagenet:
            return BareConv(self.channels, dtype=self.dtype, name="conv")(x, train)
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        x = ConvNorm(self.channels, 7, 2, name="conv", **fields)(x, train, mask)
        return max_pool(nn.relu(x))


class DenseLayer(nn.Module):
    """1x1 and 3x3 convolution, each after BatchNorm and ReLU; concatenates input and result."""

    bottleneck: int
    growth: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        y = NormConv(self.bottleneck, 1, name="bottleneck", **fields)(x, train, mask)
        y = NormConv(self.growth, 3, name="growth", **fields)(y, train, mask)
        return jnp.concatenate([x, y], axis=-1)


class Branch(nn.Module):
    """Everything after the stem: dense blocks and transitions, the last norm, the classifier."""

    plan: tuple[BlockPlan, ...]
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = []
        for number, block in enumerate(self.plan, start=1):
            for layer, (bottleneck, growth) in enumerate(block.layers, start=1):
                name = f"{block.name}_layer{layer}"
                x = DenseLayer(bottleneck, growth, name=name, **fields)(x, train, mask)
            if block.transition is not None:
                _check_size(x, block.name)
                name = f"transition{number}"
                x = NormConv(block.transition, 1, name=name, **fields)(x, train, mask)
                x = nn.avg_pool(x, (2, 2), (2, 2))
            features.append(x)
        x = nn.relu(BatchNorm(self.bn_axis_name, self.dtype, name="norm")(x, train, mask))
        return Outputs(pooled_logits(x, self.num_classes, self.dtype), tuple(features))


def _check_size(x: chex.Array, block: str) -> None:
    if min(x.shape[1:3]) < 2:
        raise ValueError(
            f"images are too small for this network: after {block} a map has "
            f"{x.shape[1]} x {x.shape[2]} pixels, and its pooling needs at least 2 x 2"
        )

"""ImageNet ResNets, ResNeXts and wide ResNets, in four stages.

For images of 224 pixels, the maps of the stages have 56, 28, 14 and 7 pixels.

Channel groups: ``stem``; ``stage1..4`` (the channels of a stage's residual sums);
``stageK.blockN.conv1``, in bottleneck blocks also ``.conv2`` (inside a block). The first block of a
stage projects its input where the shape changes: at stride 2, and in stage 1 if its width differs
from the stem's. In stage 1 of bottleneck networks it projects at any width. In bottleneck blocks
the 3x3 convolution has the stride.

The students of an ensemble share the stem and the whole of stage 1. A student's planes (64, 128,
256, 512 in the full network) are scaled and floored. With basic blocks, a stage is as wide as its
planes, outside and inside the blocks. With bottlenecks, a stage is four times as wide as its
planes, and inside its blocks ``cardinality * int(planes * base_width / 64)`` wide, but at least
``cardinality``. So ResNeXt keeps its 32 groups, and each group becomes thinner. Widths count all
channels; those inside a ResNeXt block must be multiples of the cardinality. Features are taken
after stages 2, 3 and 4.

Names in torchvision's networks: ``conv1`` and ``bn1`` are ``stem/conv/conv`` and ``norm``;
``layer1.i`` is ``stem/stage1_block{i+1}`` and ``layerK.i`` ``branch/stageK_block{i+1}``, where
``convJ`` and ``bnJ`` are ``convJ/conv`` and ``convJ/norm``, and ``downsample.0`` and ``.1`` are
``projection/conv`` and ``norm``; ``fc`` is ``branch/classifier``.

References:
  He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, table 1.
  Xie, Girshick, Dollar, Tu, He, *Aggregated Residual Transformations*, CVPR 2017, table 1.
  Zagoruyko, Komodakis, *Wide Residual Networks*, BMVC 2016, section 3 (ImageNet).
  Walawalkar, Shen, Savvides, ECCV 2020 (students).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.activations import stored_relu
from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.heads import pooled_logits
from kdjax.models.layers import ConvNorm, max_pool
from kdjax.widths import WidthVector, scale

_STAGES = {"stage1": 1, "stage2": 2, "stage3": 2, "stage4": 2}  # name: stride
_SHARED_STAGE, *_BLOCKS = _STAGES
_STEM = 64
_PLANES = {"stage1": 64, "stage2": 128, "stage3": 256, "stage4": 512}


class Variant(NamedTuple):
    """Blocks of each stage, and the shape of a block.

    Attributes:
      blocks_per_stage: the numbers of blocks of the four stages.
      bottleneck: whether a block has three convolutions instead of two.
      cardinality: groups of a bottleneck's 3x3 convolution.
      base_width: width of one such group for 64 planes.
    """

    blocks_per_stage: tuple[int, ...]
    bottleneck: bool = True
    cardinality: int = 1
    base_width: int = 64

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1

    def inner(self, planes: int) -> dict[str, int]:
        """The convolutions inside a block: name -> channels."""
        if not self.bottleneck:
            return {"conv1": planes}
        width = max(1, planes * self.base_width // 64) * self.cardinality
        return {"conv1": width, "conv2": width}


VARIANTS: Mapping[str, Variant] = {
    "resnet18": Variant((2, 2, 2, 2), bottleneck=False),
    "resnet34": Variant((3, 4, 6, 3), bottleneck=False),
    "resnet50": Variant((3, 4, 6, 3)),
    "resnet101": Variant((3, 4, 23, 3)),
    "resnet152": Variant((3, 8, 36, 3)),
    "resnext50_32x4d": Variant((3, 4, 6, 3), cardinality=32, base_width=4),
    "resnext101_32x8d": Variant((3, 4, 23, 3), cardinality=32, base_width=8),
    "wide_resnet50_2": Variant((3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": Variant((3, 4, 23, 3), base_width=128),
}


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The shape of one residual block; ``inner`` are its hidden channels."""

    name: str
    stage: str
    inner: tuple[int, ...]
    channels: int
    stride: int
    cardinality: int
    project: bool


@dataclasses.dataclass(frozen=True)
class ImageNetResNet(Architecture):
    """A ResNet, ResNeXt or wide ResNet for images of about 224 pixels."""

    variant: Variant = VARIANTS["resnet18"]

    @property
    def shared(self) -> tuple[str, ...]:
        return tuple(g for g in self.widths if g.split(".")[0] in ("stem", _SHARED_STAGE))

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(_BLOCKS)

    @property
    def keeps_cardinality(self) -> bool:
        return self.variant.cardinality > 1

    def scaled(self, width: float) -> Self:
        return dataclasses.replace(self, widths=self._scale(width))

    def student(self, factor: float) -> WidthVector:
        return self._scale(factor, ("stem", _SHARED_STAGE))

    def _scale(self, factor: float, keep: tuple[str, ...] = ()) -> WidthVector:
        planes = {stage: self.widths[stage] // self.variant.expansion for stage in _STAGES}
        scaled = scale({"stem": self.widths["stem"], **planes}, factor, keep)
        return width_vector(self.variant, scaled["stem"], scaled)

    def check(self, widths: Mapping[str, int], *, name: str = "widths") -> WidthVector:
        vector, cardinality = super().check(widths, name=name), self.variant.cardinality
        for group, channels in vector.items():
            if "." in group and channels % cardinality:
                raise ValueError(
                    f"{name}[{group!r}] is {channels}: {self.name} has {cardinality} groups inside "
                    f"a block, so it must be a multiple of {cardinality}"
                )
        return vector

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        plan = tuple(block for block in self.plan(widths) if block.stage == _SHARED_STAGE)
        return Stem(widths["stem"], plan, **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        plan = tuple(block for block in self.plan(widths) if block.stage != _SHARED_STAGE)
        return Branch(plan, self.num_classes, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[BlockPlan]:
        """The residual blocks in order."""
        for (stage, stride), blocks in zip(
            _STAGES.items(), self.variant.blocks_per_stage, strict=True
        ):
            # At stride 2 and in bottlenecks this depends on the family, not on the widths.
            reshapes = stride != 1 or self.variant.bottleneck or widths["stem"] != widths[stage]
            for number in range(1, blocks + 1):
                block = f"{stage}.block{number}"
                yield BlockPlan(
                    name=block.replace(".", "_"),
                    stage=stage,
                    inner=tuple(widths[f"{block}.{conv}"] for conv in self.variant.inner(1)),
                    channels=widths[stage],
                    stride=stride if number == 1 else 1,
                    cardinality=self.variant.cardinality,
                    project=number == 1 and reshapes,
                )


def width_vector(variant: Variant, stem: int, planes: Mapping[str, int]) -> WidthVector:
    """The width vector for a stem and the planes of each stage.

    Args:
      variant: blocks of each stage, and their shape.
      stem: channels of the stem.
      planes: stage -> channels before the expansion.
    """
    groups = {"stem": stem}
    for stage, blocks in zip(_STAGES, variant.blocks_per_stage, strict=True):
        groups[stage] = variant.expansion * planes[stage]
        for number in range(1, blocks + 1):
            for conv, channels in variant.inner(planes[stage]).items():
                groups[f"{stage}.block{number}.{conv}"] = channels
    return WidthVector(groups)


def create(name: str, num_classes: int) -> ImageNetResNet:
    """The full network of a name in :data:`VARIANTS`."""
    variant = VARIANTS[name]
    return ImageNetResNet(name, num_classes, width_vector(variant, _STEM, _PLANES), variant)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1; and a shortcut."""

    plan: BlockPlan
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        plan, fields = self.plan, {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        if len(plan.inner) == 1:
            (inner,) = plan.inner
            y = ConvNorm(inner, 3, plan.stride, name="conv1", **fields)(x, train, mask)
            y = ConvNorm(plan.channels, 3, name="conv2", **fields)(nn.relu(y), train, mask)
        else:
            inner, grouped = plan.inner
            middle = ConvNorm(
                grouped, 3, plan.stride, groups=plan.cardinality, name="conv2", **fields
            )
            y = nn.relu(ConvNorm(inner, 1, name="conv1", **fields)(x, train, mask))
            y = nn.relu(middle(y, train, mask))
            y = ConvNorm(plan.channels, 1, name="conv3", **fields)(y, train, mask)
        if plan.project:
            x = ConvNorm(plan.channels, 1, plan.stride, name="projection", **fields)(x, train, mask)
        return stored_relu(x + y)


class Stem(nn.Module):
    """7x7 convolution at stride 2, BatchNorm, ReLU, 3x3 max pooling, and the first stage."""

    channels: int
    plan: tuple[BlockPlan, ...]
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        x = ConvNorm(self.channels, 7, 2, name="conv", **fields)(x, train, mask)
        x = max_pool(nn.relu(x))
        for block in self.plan:
            x = Block(block, name=block.name, **fields)(x, train, mask)
        return x


class Branch(nn.Module):
    """Everything after the stem: stages 2 to 4, global average pooling, the classifier."""

    plan: tuple[BlockPlan, ...]
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = {}
        for block in self.plan:
            x = Block(block, name=block.name, **fields)(x, train, mask)
            features[block.stage] = x
        return Outputs(pooled_logits(x, self.num_classes, self.dtype), tuple(features.values()))

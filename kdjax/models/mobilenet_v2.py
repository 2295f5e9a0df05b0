"""MobileNetV2: inverted residual blocks, wide inside and narrow between, with linear projections.

Channel groups: ``stem``; ``stage1..7`` (the outputs of a stage's projections, which are equal in
number because residual sums add them); ``stageK.blockN.expand`` (inside a block: written by the
expansion and again by the depthwise convolution, which cannot change their number); ``head``. The
one block of stage 1 does not expand: its depthwise convolution reads and writes ``stem``.

There are two variants. For images of about 32 pixels the stem and stage 2 keep the size, so that 32
pixels become 4 at the end. For ImageNet both halve the size, and 224 pixels become 7. There is no
dropout before the classifier.

References:
  Sandler, Howard, Zhu, Zhmoginov, Chen, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*,
  CVPR 2018, tables 1 and 2.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.heads import pooled_logits
from kdjax.models.layers import ConvNorm
from kdjax.widths import WidthVector

# Name of each network -> the stride of its stem and of its second stage.
EARLY_STRIDES: Mapping[str, int] = {"mobilenet_v2": 1, "mobilenet_v2_imagenet": 2}
_STAGES = (  # name, expansion, full width, blocks, stride; None where the variants differ
    ("stage1", 1, 16, 1, 1),
    ("stage2", 6, 24, 2, None),
    ("stage3", 6, 32, 3, 2),
    ("stage4", 6, 64, 4, 2),
    ("stage5", 6, 96, 3, 1),
    ("stage6", 6, 160, 3, 2),
    ("stage7", 6, 320, 1, 1),
)


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The shape of one block; ``hidden`` are its channels inside."""

    name: str
    stage: str
    hidden: int
    channels: int
    stride: int
    expand: bool
    residual: bool


@dataclasses.dataclass(frozen=True)
class MobileNetV2(Architecture):
    """MobileNetV2; ``early_stride`` is the stride of the stem and of stage 2."""

    early_stride: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(name for name, *_ in _STAGES)

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        return Stem(widths["stem"], self.early_stride, **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        plan = tuple(self.plan(widths))
        return Branch(plan, widths["head"], self.num_classes, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[BlockPlan]:
        """The blocks in order."""
        in_group = "stem"
        for stage, expansion, _, blocks, stage_stride in _STAGES:
            first_stride = self.early_stride if stage_stride is None else stage_stride
            for number in range(1, blocks + 1):
                expand = expansion > 1
                yield BlockPlan(
                    name=f"{stage}_block{number}",
                    stage=stage,
                    hidden=widths[f"{stage}.block{number}.expand" if expand else in_group],
                    channels=widths[stage],
                    stride=first_stride if number == 1 else 1,
                    expand=expand,
                    residual=number > 1,
                )
                in_group = stage


def create(name: str, num_classes: int) -> MobileNetV2:
    """The full network of a name in :data:`EARLY_STRIDES`."""
    groups = {"stem": 32}
    in_channels = groups["stem"]
    for stage, expansion, channels, blocks, _ in _STAGES:
        groups[stage] = channels
        for number in range(1, blocks + 1):
            if expansion > 1:
                groups[f"{stage}.block{number}.expand"] = expansion * in_channels
            in_channels = channels
    groups["head"] = 1280
    return MobileNetV2(name, num_classes, WidthVector(groups), EARLY_STRIDES[name])


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU6."""

    channels: int
    stride: int = 1
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        x = ConvNorm(self.channels, 3, self.stride, name="conv", **fields)(x, train, mask)
        return nn.relu6(x)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection, and a shortcut."""

    plan: BlockPlan
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        plan, fields = self.plan, {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        y = x
        if plan.expand:
            y = nn.relu6(ConvNorm(plan.hidden, 1, name="expand", **fields)(y, train, mask))
        depthwise = ConvNorm(
            plan.hidden, 3, plan.stride, groups=plan.hidden, name="depthwise", **fields
        )
        y = nn.relu6(depthwise(y, train, mask))
        y = ConvNorm(plan.channels, 1, name="project", **fields)(y, train, mask)
        return x + y if plan.residual else y


class Branch(nn.Module):
    """Everything after the stem: the blocks, the head, global average pooling, the classifier."""

    plan: tuple[BlockPlan, ...]
    head: int
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = {}
        for block in self.plan:
            x = InvertedResidual(block, name=block.name, **fields)(x, train, mask)
            features[block.stage] = x
        x = nn.relu6(ConvNorm(self.head, 1, name="head", **fields)(x, train, mask))
        return Outputs(pooled_logits(x, self.num_classes, self.dtype), tuple(features.values()))

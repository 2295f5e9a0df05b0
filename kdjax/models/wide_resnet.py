"""Wide ResNets for small images: three stages of pre-activation blocks at 32, 16 and 8 pixels.

Channel groups: ``stem``, ``stage1..3`` (the channels of a stage's residual sums) and
``stageK.blockN.conv1`` (inside a block). A block normalises and rectifies before each convolution.
Where the shape changes, a bare 1x1 convolution of the rectified input replaces the shortcut: in the
first block of stages 2 and 3, and in stage 1 if its width differs from the stem's. In stage 1 of
networks with a widening factor above 1 it does so at any width.

Neither the paper of the ensemble nor its code has these networks. They follow the rule of its CIFAR
ResNets: students share the stem's bare 3x3 convolution, all other widths are scaled and floored,
and features are taken after each stage. These are the residual sums before the next BatchNorm.
There is no dropout.

Names in the authors' ``wrn`` and its common PyTorch port: ``blockK.layer.i`` is
``branch/stageK_block{i+1}`` with ``bn1``, ``conv1``, ``bn2``, ``conv2`` and ``convShortcut`` as
``norm1``, ``conv1/conv``, ``norm2``, ``conv2/conv`` and ``projection/conv``; the last ``bn1`` is
``branch/norm``.

References:
  Zagoruyko, Komodakis, *Wide Residual Networks*, BMVC 2016, table 1.
  He et al., *Identity Mappings in Deep Residual Networks*, ECCV 2016, figure 4(e).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.heads import pooled_logits
from kdjax.models.layers import BareConv
from kdjax.models.normalization import BatchNorm
from kdjax.widths import WidthVector

VARIANTS: Mapping[str, tuple[int, int]] = {  # depth, widening factor
    "wrn_16_2": (16, 2),
    "wrn_40_1": (40, 1),
    "wrn_40_2": (40, 2),
    "wrn_28_10": (28, 10),
}
_STEM = 16
_STAGES = (("stage1", 16, 1), ("stage2", 32, 2), ("stage3", 64, 2))  # name, width, stride


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The shape of one residual block; ``inner`` are its hidden channels."""

    name: str
    stage: str
    inner: int
    channels: int
    stride: int
    project: bool


@dataclasses.dataclass(frozen=True)
class WideResNet(Architecture):
    """A wide ResNet of depth ``6 * blocks_per_stage + 4``."""

    blocks_per_stage: int = 2
    widening: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in _STAGES)

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        return Stem(widths["stem"], **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        return Branch(tuple(self.plan(widths)), self.num_classes, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[BlockPlan]:
        """The residual blocks in order."""
        for stage, _, stage_stride in _STAGES:
            # At stride 2 and in widened networks this depends on the family, not on the widths.
            reshapes = stage_stride != 1 or self.widening > 1 or widths["stem"] != widths[stage]
            for number in range(1, self.blocks_per_stage + 1):
                yield BlockPlan(
                    name=f"{stage}_block{number}",
                    stage=stage,
                    inner=widths[f"{stage}.block{number}.conv1"],
                    channels=widths[stage],
                    stride=stage_stride if number == 1 else 1,
                    project=number == 1 and reshapes,
                )


def create(name: str, num_classes: int) -> WideResNet:
    """The full network of a name in :data:`VARIANTS`."""
    depth, widening = VARIANTS[name]
    blocks_per_stage = (depth - 4) // 6
    groups = {"stem": _STEM}
    for stage, channels, _ in _STAGES:
        groups[stage] = widening * channels
        for number in range(1, blocks_per_stage + 1):
            groups[f"{stage}.block{number}.conv1"] = widening * channels
    return WideResNet(name, num_classes, WidthVector(groups), blocks_per_stage, widening)


class Stem(nn.Module):
    """A 3x3 convolution alone; the first block normalises its output."""

    channels: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        del mask
        return BareConv(self.channels, dtype=self.dtype, name="conv")(x, train)


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution twice, and a shortcut."""

    plan: BlockPlan
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        plan, fields = self.plan, {"dtype": self.dtype}
        rectified = nn.relu(BatchNorm(self.bn_axis_name, name="norm1", **fields)(x, train, mask))
        y = BareConv(plan.inner, 3, plan.stride, name="conv1", **fields)(rectified, train)
        y = nn.relu(BatchNorm(self.bn_axis_name, name="norm2", **fields)(y, train, mask))
        y = BareConv(plan.channels, 3, name="conv2", **fields)(y, train)
        if plan.project:
            projection = BareConv(plan.channels, 1, plan.stride, name="projection", **fields)
            x = projection(rectified, train)
        return x + y


class Branch(nn.Module):
    """Everything after the stem: the blocks, the last norm, average pooling, the classifier."""

    plan: tuple[BlockPlan, ...]
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = {}
        for block in self.plan:
            x = PreActivationBlock(block, name=block.name, **fields)(x, train, mask)
            features[block.stage] = x
        x = nn.relu(BatchNorm(self.bn_axis_name, self.dtype, name="norm")(x, train, mask))
        return Outputs(pooled_logits(x, self.num_classes, self.dtype), tuple(features.values()))

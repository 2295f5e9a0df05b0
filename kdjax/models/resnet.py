"""CIFAR ResNets: three stages of basic blocks at 32, 16 and 8 pixels.

Channel groups: ``stem``, ``stage1..3`` (the channels of a stage's residual sums) and
``stageK.blockN.conv1`` (inside a block). The first block of a stage projects its input where the
shape changes: at stride 2, and in stage 1 if its width differs from the stem's.

References:
  He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2.
  Projections as in Walawalkar, Shen, Savvides, ECCV 2020.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models import resnet_execution
from kdjax.models.activations import stored_relu
from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.execution import EXECUTIONS
from kdjax.models.heads import pooled_logits
from kdjax.models.layers import ConvNorm
from kdjax.widths import WidthVector

DEPTHS = (8, 20, 32, 44, 56, 110)
_STAGES = (("stage1", 16, 1), ("stage2", 32, 2), ("stage3", 64, 2))  # name, full width, stride


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The shape of one residual block; ``inner`` are its hidden channels."""

    name: str
    stage: str
    in_channels: int
    inner: int
    channels: int
    stride: int

    @property
    def project(self) -> bool:
        return self.stride != 1 or self.in_channels != self.channels


@dataclasses.dataclass(frozen=True)
class ResNet(Architecture):
    """A CIFAR ResNet of depth ``6 * blocks_per_stage + 2``."""

    blocks_per_stage: int = 3

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in _STAGES)

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        return Stem(widths["stem"], **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        return Branch(tuple(self.plan(widths)), self.num_classes, **module_fields)

    @property
    def executions(self) -> tuple[str, ...]:
        return EXECUTIONS

    def run_branches(self, student_widths, variables, inputs, mode, execution, image_shape):
        """Runs all students' branches by a strategy; see :meth:`Architecture.run_branches`.

        Args:
          student_widths: width vector of each student.
          variables: the variables of each student's branch.
          inputs: the stem's map, or a list with one for each student.
          mode: training or evaluation, dtype, mask and axis name.
          execution: the strategy.
          image_shape: (height, width, channels) of the images; not used here.
        """
        plans = [tuple(self.plan(widths)) for widths in student_widths]
        return resnet_execution.run_branches(plans, variables, inputs, mode, execution)

    def plan(self, widths: Mapping[str, int]) -> Iterator[BlockPlan]:
        """The residual blocks in order."""
        in_group = "stem"
        for stage, _, stage_stride in _STAGES:
            for number in range(1, self.blocks_per_stage + 1):
                yield BlockPlan(
                    name=f"{stage}_block{number}",
                    stage=stage,
                    in_channels=widths[in_group],
                    inner=widths[f"{stage}.block{number}.conv1"],
                    channels=widths[stage],
                    stride=stage_stride if number == 1 else 1,
                )
                in_group = stage


def create(name: str, depth: int, num_classes: int) -> ResNet:
    """The full CIFAR ResNet of a depth in :data:`DEPTHS`.

    Args:
      name: as in the registry.
      depth: layers, as the name says.
      num_classes: outputs of the classifier.
    """
    blocks_per_stage = (depth - 2) // 6
    groups = {"stem": 16}
    for stage, channels, _ in _STAGES:
        groups[stage] = channels
        for number in range(1, blocks_per_stage + 1):
            groups[f"{stage}.block{number}.conv1"] = channels
    return ResNet(name, num_classes, WidthVector(groups), blocks_per_stage)


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    channels: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        return nn.relu(ConvNorm(self.channels, name="conv", **fields)(x, train, mask))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    plan: BlockPlan
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        plan, fields = self.plan, {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        y = ConvNorm(plan.inner, 3, plan.stride, name="conv1", **fields)(x, train, mask)
        y = ConvNorm(plan.channels, 3, name="conv2", **fields)(nn.relu(y), train, mask)
        if plan.project:
            x = ConvNorm(plan.channels, 1, plan.stride, name="projection", **fields)(x, train, mask)
        return stored_relu(x + y)


class Branch(nn.Module):
    """Everything after the stem: the blocks, global average pooling, the classifier."""

    plan: tuple[BlockPlan, ...]
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = {}
        for block in self.plan:
            x = BasicBlock(block, name=block.name, **fields)(x, train, mask)
            features[block.stage] = x
        return Outputs(pooled_logits(x, self.num_classes, self.dtype), tuple(features.values()))

"""EfficientNet-B0 to B7: inverted residual blocks with squeeze-and-excitation, scaled together.

Channel groups: ``stem``; ``stage1..7`` (the channels of a stage's residual sums);
``stageK.blockN.expand`` (inside a block: written by the expansion and again by the depthwise
convolution, which cannot change their number); ``stageK.blockN.squeeze`` (inside the
squeeze-and-excitation: a separate group, which starts at a quarter of the block's input); ``head``.
Blocks of stage 1 do not expand: their depthwise convolutions read and write ``stem`` or ``stage1``.
All blocks but the first of a stage add their input to their output.

A student's factor multiplies the width multiplier, not the widths. Then each stage and the head are
rounded to the nearest multiple of 8 (at least 8, never below 0.9 of the value); the stem keeps its
width. The paper of the ensemble has three blocks, which are named here by their first stages.
Features are taken after stages 3, 5 and 7. The last map is taken before the head, as in the paper's
figure 2(a); the paper's code takes it after the head. Convolutions pad equally on all sides, as in
torchvision. TensorFlow's SAME padding gives the same sizes: odd ones are rounded up.

In training with a random key named ``dropout``, whole residual branches are dropped for single
examples. The rate rises linearly with the depth up to ``drop_connect``, as in EfficientNet's own
code; the ensemble's code has one rate everywhere. Inputs of the classifier are dropped with the
rate ``dropout``. Without a key, and in evaluation, nothing is dropped.

Names in torchvision's networks: ``features.0`` is ``stem/conv``; ``features.K.i.block`` is
``branch/stageK_block{i+1}`` with ``expand``, ``depthwise``, ``squeeze`` and ``project`` in this
order; in its squeeze-and-excitation, ``fc1`` and ``fc2`` are ``squeeze/reduce`` and
``squeeze/excite``; ``features.8`` is ``branch/head``; ``classifier.1`` is ``branch/classifier``.

References:
  Tan, Le, *EfficientNet*, ICML 2019, table 1, section 5, and its reference code (rounding, rates).
  Hu, Shen, Sun, *Squeeze-and-Excitation Networks*, CVPR 2018, section 3.
  Huang et al., *Deep Networks with Stochastic Depth*, ECCV 2016, section 3.
  Walawalkar, Shen, Savvides, ECCV 2020 (students).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.layers import ConvNorm
from kdjax.widths import WidthVector, check_factor


class Variant(NamedTuple):
    """Multipliers of widths and depths, and the rate of the dropout before the classifier."""

    width: float
    depth: float
    dropout: float


VARIANTS: Mapping[str, Variant] = {
    "efficientnet_b0": Variant(1.0, 1.0, 0.2),  # made for 224 pixels
    "efficientnet_b1": Variant(1.0, 1.1, 0.2),  # 240
    "efficientnet_b2": Variant(1.1, 1.2, 0.3),  # 260
    "efficientnet_b3": Variant(1.2, 1.4, 0.3),  # 300
    "efficientnet_b4": Variant(1.4, 1.8, 0.4),  # 380
    "efficientnet_b5": Variant(1.6, 2.2, 0.4),  # 456
    "efficientnet_b6": Variant(1.8, 2.6, 0.5),  # 528
    "efficientnet_b7": Variant(2.0, 3.1, 0.5),  # 600
}


class Stage(NamedTuple):
    """A row of the paper's table 1; channels and blocks are those of B0."""

    name: str
    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


_STAGES = (
    Stage("stage1", 1, 16, 1, 1, 3),
    Stage("stage2", 6, 24, 2, 2, 3),
    Stage("stage3", 6, 40, 2, 2, 5),
    Stage("stage4", 6, 80, 3, 2, 3),
    Stage("stage5", 6, 112, 3, 1, 5),
    Stage("stage6", 6, 192, 4, 2, 5),
    Stage("stage7", 6, 320, 1, 1, 3),
)
_STEM, _HEAD = 32, 1280
_BLOCKS = {"stage1": "stage3", "stage4": "stage5", "stage6": "stage7"}  # first stage: last stage
# Settings of the normalisation, as in the reference code.
NORM: Mapping[str, Any] = {"momentum": 0.99, "epsilon": 1e-3}


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The shape of one block: ``hidden`` channels inside, ``squeeze`` channels in its gate."""

    name: str
    stage: str
    hidden: int
    squeeze: int
    channels: int
    stride: int
    kernel: int
    expand: bool
    residual: bool
    drop: float


@dataclasses.dataclass(frozen=True)
class EfficientNet(Architecture):
    """An EfficientNet.

    Attributes:
      width, depth: multipliers of B0's channels and blocks.
      dropout: rate before the classifier.
      drop_connect: the limit to which the rate of dropping residual branches rises with the depth;
        the rate is 0 at the first block.
    """

    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    drop_connect: float = 0.2

    @property
    def drops(self) -> bool:
        return self.dropout > 0 or self.drop_connect > 0

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(_BLOCKS)

    def scaled(self, width: float) -> Self:
        check_factor(width)
        multiplier = self.width * width
        vector = width_vector(multiplier, self.depth, round_filters(_STEM, multiplier))
        return dataclasses.replace(self, widths=vector, width=multiplier)

    def student(self, factor: float) -> WidthVector:
        check_factor(factor)
        return width_vector(self.width * factor, self.depth, self.widths["stem"])

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        return Stem(widths["stem"], **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        plan = tuple(self.plan(widths))
        return Branch(plan, widths["head"], self.num_classes, self.dropout, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[BlockPlan]:
        """The blocks in order."""
        total = sum(_repeats(stage.blocks, self.depth) for stage in _STAGES)
        before, in_group = 0, "stem"
        for stage in _STAGES:
            for number in range(1, _repeats(stage.blocks, self.depth) + 1):
                block = f"{stage.name}.block{number}"
                expand = stage.expansion > 1
                yield BlockPlan(
                    name=block.replace(".", "_"),
                    stage=stage.name,
                    hidden=widths[f"{block}.expand" if expand else in_group],
                    squeeze=widths[f"{block}.squeeze"],
                    channels=widths[stage.name],
                    stride=stage.stride if number == 1 else 1,
                    kernel=stage.kernel,
                    expand=expand,
                    residual=number > 1,
                    drop=self.drop_connect * before / total,
                )
                before, in_group = before + 1, stage.name


def round_filters(channels: int, multiplier: float) -> int:
    """Channels times a multiplier, as a multiple of 8.

    >>> [round_filters(16, 1.1), round_filters(16, 0.7), round_filters(16, 0.2)]
    [16, 16, 8]
    """
    value = channels * multiplier
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def width_vector(width: float, depth: float, stem: int) -> WidthVector:
    """The width vector for two multipliers and a stem.

    Args:
      width: multiplier of channels.
      depth: multiplier of blocks.
      stem: channels of the stem.
    """
    groups, channels = {"stem": stem}, stem
    for stage in _STAGES:
        groups[stage.name] = round_filters(stage.channels, width)
        for number in range(1, _repeats(stage.blocks, depth) + 1):
            if stage.expansion > 1:
                groups[f"{stage.name}.block{number}.expand"] = stage.expansion * channels
            groups[f"{stage.name}.block{number}.squeeze"] = max(1, channels // 4)
            channels = groups[stage.name]
    groups["head"] = round_filters(_HEAD, width)
    return WidthVector(groups)


def _repeats(blocks: int, depth: float) -> int:
    return math.ceil(blocks * depth)


def create(name: str, num_classes: int) -> EfficientNet:
    """The full network of a name in :data:`VARIANTS`."""
    width, depth, dropout = VARIANTS[name]
    widths = width_vector(width, depth, round_filters(_STEM, width))
    return EfficientNet(name, num_classes, widths, width, depth, dropout)


class Stem(nn.Module):
    """3x3 convolution at stride 2, BatchNorm, swish."""

    channels: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name, **NORM}
        return nn.swish(ConvNorm(self.channels, 3, 2, name="conv", **fields)(x, train, mask))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the means of all channels."""

    squeeze: int
    dtype: chex.ArrayDType = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        means = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        y = nn.swish(nn.Dense(self.squeeze, dtype=self.dtype, name="reduce")(means))
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="excite")(y)
        return x * nn.sigmoid(y)[:, None, None, :]


class Block(nn.Module):
    """1x1 expansion, depthwise convolution, gate, linear 1x1 projection, and a shortcut."""

    plan: BlockPlan
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        plan = self.plan
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name, **NORM}
        y = x
        if plan.expand:
            y = nn.swish(ConvNorm(plan.hidden, 1, name="expand", **fields)(y, train, mask))
        depthwise = ConvNorm(
            plan.hidden, plan.kernel, plan.stride, groups=plan.hidden, name="depthwise", **fields
        )
        y = nn.swish(depthwise(y, train, mask))
        y = SqueezeExcite(plan.squeeze, self.dtype, name="squeeze")(y)
        y = ConvNorm(plan.channels, 1, name="project", **fields)(y, train, mask)
        if not plan.residual:
            return y
        # One draw for each example, the same at all pixels and channels.
        drop = nn.Dropout(plan.drop, broadcast_dims=(1, 2, 3), name="drop_connect")
        return x + drop(y, deterministic=not (train and self.has_rng("dropout")))


class Branch(nn.Module):
    """Everything after the stem: the blocks, the head, average pooling, the classifier."""

    plan: tuple[BlockPlan, ...]
    head: int
    num_classes: int
    dropout: float = 0.0
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = {}
        for block in self.plan:
            x = Block(block, name=block.name, **fields)(x, train, mask)
            features[block.stage] = x
        head = ConvNorm(self.head, 1, name="head", **fields, **NORM)
        x = nn.swish(head(x, train, mask))
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        drop = nn.Dropout(self.dropout, name="dropout")
        pooled = drop(pooled, deterministic=not (train and self.has_rng("dropout")))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(pooled)
        return Outputs(logits.astype(jnp.float32), tuple(features[s] for s in _BLOCKS.values()))

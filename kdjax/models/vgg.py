"""VGG with batch normalisation: five stages of 3x3 convolutions, ended by max pooling.

Channel groups: ``stageK.convN``, one for each convolution, of which ``stage1.conv1`` is the stem;
in the ImageNet variant also ``dense1`` and ``dense2``. Convolutions have a bias, although the
normalisation after them cancels it, because the published parameter counts include it. The feature
map of a stage is taken after its pooling, which rounds odd sizes up.

Variants for small images end with global average pooling and one dense layer. The ImageNet variant
flattens the last map in the order (height, width, channel) and ends with three dense layers, so
that its parameters fit only one image size. There is no dropout between the dense layers. VGG8 and
VGG13 are a usual pair of student and teacher. They pool after the first three stages only. Every
stage of VGG8 is one convolution, so its stem is the whole first stage.

References:
  Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*,
  ICLR 2015, table 1, configurations B and D.
  Ioffe, Szegedy, *Batch Normalization*, ICML 2015.
  Tian, Krishnan, Isola, *Contrastive Representation Distillation*, ICLR 2020: VGG8, and the
  pooling of VGG13.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.layers import ConvNorm
from kdjax.widths import WidthVector

_STAGES = (("stage1", 64), ("stage2", 128), ("stage3", 256), ("stage4", 512), ("stage5", 512))


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the published networks.

    Attributes:
      convolutions: number of convolutions of each stage.
      pooled: how many stages, from the first, end with max pooling.
      dense: names of the dense layers before the classifier.
    """

    convolutions: tuple[int, ...]
    pooled: int = len(_STAGES)
    dense: tuple[str, ...] = ()


VARIANTS: Mapping[str, Variant] = {
    "vgg8_bn": Variant((1, 1, 1, 1, 1), pooled=3),
    "vgg13_bn": Variant((2, 2, 2, 2, 2), pooled=3),
    "vgg16_bn": Variant((2, 2, 3, 3, 3)),
    "vgg16_bn_imagenet": Variant((2, 2, 3, 3, 3), dense=("dense1", "dense2")),
}
_DENSE_WIDTH = 4096
_STEM = "stage1.conv1"


@dataclasses.dataclass(frozen=True)
class ConvPlan:
    """The shape of one convolution; ``last``: it ends its stage; ``pool``: pooling follows."""

    stage: str
    group: str
    channels: int
    last: bool
    pool: bool

    @property
    def name(self) -> str:
        return self.group.replace(".", "_")


@dataclasses.dataclass(frozen=True)
class VGG(Architecture):
    """A VGG with batch normalisation, given by its :class:`Variant`."""

    variant: Variant = VARIANTS["vgg16_bn"]

    @property
    def shared(self) -> tuple[str, ...]:
        return (_STEM,)

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(conv.stage for conv in self.plan(self.widths) if conv.last)

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        pool = self.variant.convolutions[0] == 1
        return Stem(widths[_STEM], pool, **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        dense = tuple((name, widths[name]) for name in self.variant.dense)
        return Branch(tuple(self.plan(widths)), dense, self.num_classes, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[ConvPlan]:
        """The convolutions after the stem, in order."""
        for stage, group, last in _convolutions(self.variant):
            if group != _STEM:
                number = int(stage.removeprefix("stage"))
                yield ConvPlan(
                    stage=stage,
                    group=group,
                    channels=widths[group],
                    last=last,
                    pool=last and number <= self.variant.pooled,
                )


def create(name: str, num_classes: int) -> VGG:
    """The full network of a name in :data:`VARIANTS`."""
    variant, full = VARIANTS[name], dict(_STAGES)
    groups = {group: full[stage] for stage, group, _ in _convolutions(variant)}
    groups |= dict.fromkeys(variant.dense, _DENSE_WIDTH)
    return VGG(name, num_classes, WidthVector(groups), variant)


def _convolutions(variant: Variant) -> Iterator[tuple[str, str, bool]]:
    """For each convolution its stage, channel group, and whether it is the stage's last."""
    for (stage, _), convolutions in zip(_STAGES, variant.convolutions, strict=True):
        for number in range(1, convolutions + 1):
            yield stage, f"{stage}.conv{number}", number == convolutions


class Stem(nn.Module):
    """3x3 convolution with bias, BatchNorm, ReLU; max pooling if it is the whole stage."""

    channels: int
    pool: bool = False
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        x = ConvNorm(self.channels, use_bias=True, name="conv", **fields)(x, train, mask)
        return _pool(nn.relu(x)) if self.pool else nn.relu(x)


class Branch(nn.Module):
    """Everything after the stem: convolutions, pooling, dense layers, the classifier."""

    plan: tuple[ConvPlan, ...]
    dense: tuple[tuple[str, int], ...]
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> Outputs:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        features = []
        for conv in self.plan:
            x = ConvNorm(conv.channels, use_bias=True, name=conv.name, **fields)(x, train, mask)
            x = nn.relu(x)
            if conv.pool:
                x = _pool(x)
            if conv.last:
                features.append(x)
        if self.dense:
            x = x.reshape((x.shape[0], -1))
        else:
            x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        for name, channels in self.dense:
            x = nn.Dense(
                channels, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=name
            )(x)
            x = nn.relu(x)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)
        return Outputs(logits.astype(jnp.float32), tuple(features))


def _pool(x: chex.Array) -> chex.Array:
    return nn.max_pool(x, (2, 2), (2, 2), padding="SAME")

"""VGG16 with batch normalisation: five stages of 3x3 convolutions, each ended by max pooling.

Channel groups: ``stageK.convN``, one for each convolution, of which ``stage1.conv1`` is the stem;
in the ImageNet variant also ``dense1`` and ``dense2``. Convolutions keep their bias, although the
normalisation after it cancels it, because the published parameter counts have it. The feature map
of a stage is taken after its pooling, which rounds odd sizes up.

Two variants: for small images, global average pooling and one dense layer; for ImageNet, the last
map flattened in the order (height, width, channel) and three dense layers, so that its parameters
fit one image size alone. No dropout between the dense layers.

References:
  Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*,
  ICLR 2015, table 1, configuration D.
  Ioffe, Szegedy, *Batch Normalization*, ICML 2015.
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

# Of each network: its dense layers before the classifier.
DENSE_LAYERS: Mapping[str, tuple[str, ...]] = {
    "vgg16_bn": (),
    "vgg16_bn_imagenet": ("dense1", "dense2"),
}
_STAGES = (  # name, full width, convolutions
    ("stage1", 64, 2),
    ("stage2", 128, 2),
    ("stage3", 256, 3),
    ("stage4", 512, 3),
    ("stage5", 512, 3),
)
_DENSE_WIDTH = 4096
_STEM = "stage1.conv1"


@dataclasses.dataclass(frozen=True)
class ConvPlan:
    """The shape of one convolution; ``pool`` says whether it ends its stage."""

    stage: str
    group: str
    channels: int
    pool: bool

    @property
    def name(self) -> str:
        return self.group.replace(".", "_")


@dataclasses.dataclass(frozen=True)
class VGG(Architecture):
    """VGG16 with batch normalisation; ``dense`` names the dense layers before the classifier."""

    dense: tuple[str, ...] = ()

    @property
    def shared(self) -> tuple[str, ...]:
        return (_STEM,)

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in _STAGES)

    def stem(self, widths: Mapping[str, int], **module_fields: Any) -> "Stem":
        return Stem(widths[_STEM], **module_fields)

    def branch(self, widths: Mapping[str, int], **module_fields: Any) -> "Branch":
        dense = tuple((name, widths[name]) for name in self.dense)
        return Branch(tuple(self.plan(widths)), dense, self.num_classes, **module_fields)

    def plan(self, widths: Mapping[str, int]) -> Iterator[ConvPlan]:
        """The convolutions after the stem, in order."""
        for stage, _, convolutions in _STAGES:
            for number in range(1, convolutions + 1):
                group = f"{stage}.conv{number}"
                if group == _STEM:
                    continue
                yield ConvPlan(
                    stage=stage,
                    group=group,
                    channels=widths[group],
                    pool=number == convolutions,
                )


def create(name: str, num_classes: int) -> VGG:
    """The full network of a name in :data:`DENSE_LAYERS`."""
    groups = {
        f"{stage}.conv{number}": channels
        for stage, channels, convolutions in _STAGES
        for number in range(1, convolutions + 1)
    }
    groups |= dict.fromkeys(DENSE_LAYERS[name], _DENSE_WIDTH)
    return VGG(name, num_classes, WidthVector(groups), DENSE_LAYERS[name])


class Stem(nn.Module):
    """3x3 convolution with bias, BatchNorm, ReLU."""

    channels: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x: chex.Array, train: bool, mask: chex.Array | None) -> chex.Array:
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        x = ConvNorm(self.channels, use_bias=True, name="conv", **fields)(x, train, mask)
        return nn.relu(x)


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
                x = nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
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

"""An example of a user's own network: two convolutions side by side, whose maps are joined.

Command:  kdjax train --config.network=configs/networks/forked.py:create --config.data.name=digits

A network has a stem, a branch and full widths. All students of an ensemble share the stem. Each
student has its own branch, which returns logits and a map after each block. Both modules are built
from a width vector. Every width is passed to a layer unchanged, without arithmetic, so that kdjax
can find out what the network costs and which channels belong together. This file must not import
other files from its directory, because a workdir keeps a copy of this file only.
"""

import dataclasses
from collections.abc import Mapping

import chex
import flax.linen as nn
import jax.numpy as jnp

from kdjax.models import Architecture, Outputs
from kdjax.models.layers import ConvNorm
from kdjax.widths import WidthVector


class Stem(nn.Module):
    widths: Mapping[str, int]
    dtype: chex.ArrayDType = jnp.float32  # Dtype of the computation.
    bn_axis_name: str | None = None  # The devices that share batch statistics.

    @nn.compact
    def __call__(self, x, train, mask):  # mask: False for padding, ignored by statistics.
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        return nn.relu(ConvNorm(self.widths["stem"], **fields)(x, train, mask))


class Branch(nn.Module):
    widths: Mapping[str, int]
    num_classes: int
    dtype: chex.ArrayDType = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        fields = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}
        near = ConvNorm(self.widths["near"], 3, 2, name="near", **fields)(x, train, mask)
        far = ConvNorm(self.widths["far"], 5, 2, name="far", **fields)(x, train, mask)
        fork = nn.relu(jnp.concatenate([near, far], axis=-1))
        join = nn.relu(ConvNorm(self.widths["join"], 3, 2, **fields)(fork, train, mask))
        pooled = jnp.mean(join, axis=(1, 2), dtype=jnp.float32)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(pooled)
        return Outputs(logits.astype(jnp.float32), (fork, join))


@dataclasses.dataclass(frozen=True)
class Forked(Architecture):
    blocks = ("fork", "join")  # A name for each map that the branch returns.

    def stem(self, widths, **fields):
        return Stem(widths, **fields)

    def branch(self, widths, **fields):
        return Branch(widths, self.num_classes, **fields)


def create(num_classes):
    widths = WidthVector({"stem": 16, "near": 32, "far": 16, "join": 64})
    return Forked("forked", num_classes, widths)

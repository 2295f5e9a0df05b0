"""Searches of many kinds of networks, from the first step to training the small network."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import pytest

from kdjax import config as configuration
from kdjax import costs, models
from kdjax.models import registry
from kdjax.models.architecture import Architecture, Outputs
from kdjax.models.efficientnet import SqueezeExcite
from kdjax.models.layers import BareConv, ConvNorm, NormConv
from kdjax.models.normalization import BatchNorm
from kdjax.train import search
from kdjax.train.tasks.evaluate import evaluate
from kdjax.widths import WidthVector

FORKED = Path(__file__).parents[2] / "configs" / "networks" / "forked.py"


class Stem(nn.Module):
    """A convolution whose output is read before any normalisation."""

    widths: WidthVector
    dtype: jnp.dtype = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        return BareConv(self.widths["stem"], dtype=self.dtype)(x, train)


class Branch(nn.Module):
    """A branch with a concatenation of normalised readers, groups, a gate and a residual sum."""

    widths: WidthVector
    dtype: jnp.dtype = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        fields, widths = {"dtype": self.dtype, "bn_axis_name": self.bn_axis_name}, self.widths
        grown = NormConv(widths["growth"], name="growth", **fields)(x, train, mask)
        x = jnp.concatenate([x, grown], axis=-1)
        x = nn.relu(BatchNorm(self.bn_axis_name, self.dtype, name="norm")(x, train, mask))
        x = nn.relu(ConvNorm(widths["read"], 1, name="read", **fields)(x, train, mask))
        joined = x
        x = nn.relu(
            ConvNorm(widths["written"], 3, groups=2, name="written", **fields)(x, train, mask)
        )
        x = SqueezeExcite(widths["squeeze"], self.dtype, name="gate")(x)
        x = nn.relu(joined + ConvNorm(widths["read"], 1, name="back", **fields)(x, train, mask))
        logits = nn.Dense(4, dtype=self.dtype, name="classifier")(jnp.mean(x, axis=(1, 2)))
        return Outputs(logits.astype(jnp.float32), (x,))


@dataclasses.dataclass(frozen=True)
class Mixed(Architecture):
    blocks = ("only",)
    keeps_cardinality = True

    def stem(self, widths, **fields):
        return Stem(widths, **fields)

    def branch(self, widths, **fields):
        return Branch(widths, **fields)


def mixed(num_classes):
    widths = {"stem": 12, "growth": 8, "read": 16, "written": 12, "squeeze": 3}
    return Mixed("mixed", num_classes, WidthVector(widths))


@pytest.mark.parametrize("network", [f"{FORKED}:create", "mixed"])
def test_a_search_ends_in_a_trained_small_network(network, small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))
    models.register("mixed", mixed)
    config = configuration.search_default()
    config.update_from_flattened_dict(
        {
            "network": network,
            "network_width": 1.0,
            "seeds": (0,),
            "data.name": f"npz:{small_npz}",
            "search.target.flops": 0.7,
            "teacher.epochs": 1,
            "search.epochs": 4,
            "distil.epochs": 1,
            "batch_size": 16,
            "evaluation.batch_size": 16,
            "log.tensorboard": False,
            "compute.devices": 1,
        }
    )
    structure = search(config, tmp_path / "run")["structure"]
    architecture = models.create(network, 4)
    small, full = (
        costs.count(architecture, structure[name], (8, 8, 1))
        for name in ("widths", "widths_before")
    )
    # In such a small network one channel is several per cent of the FLOPs.
    assert 0.55 < small.flops / full.flops <= 0.7
    if network == "mixed":
        assert structure["widths"]["squeeze"] == 3
        assert structure["widths"]["read"] % 2 == structure["widths"]["written"] % 2 == 0
    evaluate(tmp_path / "run", student="compact", split="validation")

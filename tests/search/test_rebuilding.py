"""A network whose structure changes if two widths are equal is refused before a search."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import pytest

from kdjax.models import Architecture, Outputs
from kdjax.search import Channels, check_equal_widths
from kdjax.widths import WidthVector

SHAPE = (4, 6, 1)


class Stem(nn.Module):
    channels: int
    dtype: type = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        return nn.BatchNorm(True, name="norm")(nn.Conv(self.channels, (3, 3), name="conv")(x))


class Branch(nn.Module):
    channels: int
    by_width: bool
    dtype: type = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        y = nn.BatchNorm(True, name="norm")(nn.Conv(self.channels, (3, 3), name="conv")(x))
        if not self.by_width or x.shape[-1] != self.channels:
            projected = nn.Conv(self.channels, (1, 1), name="projection")(x)
            x = nn.BatchNorm(True, name="shortcut")(projected)
        return Outputs(nn.Dense(3, name="classifier")((x + y).mean((1, 2))), (x,))


@dataclasses.dataclass(frozen=True)
class Shortcut(Architecture):
    """One residual block; with ``by_width`` it projects its input only if two widths differ."""

    by_width: bool = False

    @property
    def blocks(self):
        return ("body",)

    def stem(self, widths, **fields):
        return Stem(widths["stem"], **fields)

    def branch(self, widths, **fields):
        return Branch(widths["body"], self.by_width, **fields)


def check(by_width, held=()):
    network = Shortcut("shortcut", 3, WidthVector({"stem": 4, "body": 6}), by_width)
    check_equal_widths(network, Channels.of(network, network.widths, SHAPE), SHAPE, held)


def test_a_shortcut_that_is_always_there_is_searched():
    check(by_width=False)


def test_a_shortcut_that_depends_on_two_widths_is_refused():
    with pytest.raises(
        ValueError,
        match=r"a search may make widths equal, and then .* only the full network has "
        r"batch_stats/branch/shortcut/mean.*: a module must not change its structure",
    ):
        check(by_width=True)


def test_a_group_that_keeps_its_width_is_not_made_equal():
    check(by_width=True, held=("body",))

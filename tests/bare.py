"""A small network without normalisation, as a user would write it."""

BARE = """
import dataclasses
import flax.linen as nn
import jax.numpy as jnp
from kdjax.models import Architecture, Outputs
from kdjax.widths import WidthVector

class Stem(nn.Module):
    width: int
    dtype: object = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        return nn.relu(nn.Conv(self.width, (3, 3), dtype=self.dtype)(x))

class Branch(nn.Module):
    width: int
    classes: int
    dtype: object = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask):
        x = nn.relu(nn.Conv(self.width, (3, 3), 2, dtype=self.dtype)(x))
        logits = nn.Dense(self.classes, dtype=self.dtype)(jnp.mean(x, axis=(1, 2)))
        return Outputs(logits.astype(jnp.float32), (x,))

@dataclasses.dataclass(frozen=True)
class Bare(Architecture):
    blocks = ("body",)

    def stem(self, widths, **fields):
        return Stem(widths["stem"], **fields)

    def branch(self, widths, **fields):
        return Branch(widths["body"], self.num_classes, **fields)

def create(num_classes):
    return Bare("bare", num_classes, WidthVector({"stem": 4, "body": 8}))
"""


def bare(folder, text=BARE):
    """Writes a network's file into a folder; returns the network's name."""
    (folder / "bare.py").write_text(text)
    return f"{folder / 'bare.py'}:create"


def without_blocks(folder):
    """The same for a network that has no blocks and returns no maps."""
    text = BARE.replace("(x,))", "())").replace('blocks = ("body",)', "blocks = ()")
    return bare(folder, text)

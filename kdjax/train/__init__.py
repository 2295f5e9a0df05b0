"""Training: state, optimiser, the step, devices, checkpoints and the loops around them."""

from kdjax.train.loop import train
from kdjax.train.pipeline import search

__all__ = ["search", "train"]

"""Training: state, optimiser, the step, devices, checkpoints and the loop around them."""

from kdjax.train.loop import train

__all__ = ["train"]

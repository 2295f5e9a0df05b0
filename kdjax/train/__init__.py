"""Training, in four rooms: ``devices``, ``program``, ``run`` and ``tasks``."""

from kdjax.train.tasks.search import search
from kdjax.train.tasks.train import train

__all__ = ["search", "train"]

"""Training, in four parts: ``devices``, ``program``, ``run`` and ``tasks``."""

from kdjax.train.tasks.distill import distill
from kdjax.train.tasks.distill_teachers import Teacher
from kdjax.train.tasks.search import search
from kdjax.train.tasks.train import train

__all__ = ["Teacher", "distill", "search", "train"]

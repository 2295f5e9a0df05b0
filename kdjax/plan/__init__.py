"""Estimates a run on an accelerator from programs that are compiled without it."""

from kdjax.plan.run import plan
from kdjax.plan.stand_in import DataShape
from kdjax.plan.targets import CHIPS

__all__ = ["CHIPS", "DataShape", "plan"]

"""What an accelerator would do with a run, from programs compiled without it."""

from kdjax.plan.run import plan
from kdjax.plan.stand_in import DataShape
from kdjax.plan.targets import CHIPS

__all__ = ["CHIPS", "DataShape", "plan"]

"""Structure search: which channels of a network are worth their cost, under a budget.

A search is an optimiser (:func:`controlled`) around another: it knows nothing of losses, data or
devices. What it leaves is a width vector, and the surviving weights.
"""

from kdjax.search.blocks import Block, partition
from kdjax.search.budget import EXACTNESS, Budget, Constraint, make_budget
from kdjax.search.channels import Channels, Group, find_groups
from kdjax.search.controller import ControllerState, Plan, SearchState, controlled, proximal
from kdjax.search.extract import TOLERANCE, alive_widths, expand, kept_channels, top_up
from kdjax.search.penalty import CostModel
from kdjax.search.slicing import masked, slim

__all__ = [
    "EXACTNESS",
    "TOLERANCE",
    "Block",
    "Budget",
    "Channels",
    "Constraint",
    "ControllerState",
    "CostModel",
    "Group",
    "Plan",
    "SearchState",
    "alive_widths",
    "controlled",
    "expand",
    "find_groups",
    "kept_channels",
    "make_budget",
    "masked",
    "partition",
    "proximal",
    "slim",
    "top_up",
]

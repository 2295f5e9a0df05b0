"""Structure search: finds the channels of a network that are worth their cost, under a budget.

A search is an optimiser (:func:`controlled`) that wraps another optimiser. It does not depend on
losses, data or devices. Its result is a width vector and the weights of the surviving channels.
"""

from kdjax.search.blocks import Block, partition
from kdjax.search.budget import (
    EXACTNESS,
    Budget,
    TargetError,
    check_multiple,
    make_budget,
    near_collapse,
)
from kdjax.search.channels import Channels
from kdjax.search.constraints import Constraint
from kdjax.search.controller import ControllerState, SearchState, Timetable, controlled
from kdjax.search.criteria import CRITERIA, Criterion, Evidence
from kdjax.search.expanding import expand
from kdjax.search.extract import (
    TOLERANCE,
    alive_widths,
    kept_channels,
    revive,
    with_counts,
    worth,
)
from kdjax.search.latency import LatencyTable, load_latencies
from kdjax.search.penalty import RESOURCES, CostModel
from kdjax.search.proximal import proximal
from kdjax.search.rebuilding import check_equal_widths, check_rebuilt
from kdjax.search.rounding import round_widths
from kdjax.search.schedule import minimum_width

__all__ = [
    "CRITERIA",
    "EXACTNESS",
    "RESOURCES",
    "TOLERANCE",
    "Block",
    "Budget",
    "Channels",
    "Constraint",
    "ControllerState",
    "CostModel",
    "Criterion",
    "Evidence",
    "LatencyTable",
    "SearchState",
    "TargetError",
    "Timetable",
    "alive_widths",
    "check_equal_widths",
    "check_multiple",
    "check_rebuilt",
    "controlled",
    "expand",
    "kept_channels",
    "load_latencies",
    "make_budget",
    "minimum_width",
    "near_collapse",
    "partition",
    "proximal",
    "revive",
    "round_widths",
    "with_counts",
    "worth",
]

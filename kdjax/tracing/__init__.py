"""What a network is made of, found by following its channels through its own forward pass."""

from kdjax.tracing.checking import check
from kdjax.tracing.counting import Terms, count, everything, layer_costs, layer_terms, terms
from kdjax.tracing.description import Group, Layer, Operation, Traced
from kdjax.tracing.slicing import silence, take
from kdjax.tracing.thinning import alive_from_kept, units, widths
from kdjax.tracing.trace import trace, traced

__all__ = [
    "Group",
    "Layer",
    "Operation",
    "Terms",
    "Traced",
    "alive_from_kept",
    "check",
    "count",
    "everything",
    "layer_costs",
    "layer_terms",
    "silence",
    "take",
    "terms",
    "trace",
    "traced",
    "units",
    "widths",
]

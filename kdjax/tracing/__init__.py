"""Finds the structure of a network by following its channels through its forward pass."""

from kdjax.tracing.calls import called, module_path
from kdjax.tracing.checking import check
from kdjax.tracing.counting import Terms, count, everything, layer_costs, layer_terms, terms
from kdjax.tracing.description import OUTPUTS, Group, Layer, Operation, Traced
from kdjax.tracing.slicing import alive_from_kept, take
from kdjax.tracing.trace import trace, trace_architecture

__all__ = [
    "OUTPUTS",
    "Group",
    "Layer",
    "Operation",
    "Terms",
    "Traced",
    "alive_from_kept",
    "called",
    "check",
    "count",
    "everything",
    "layer_costs",
    "layer_terms",
    "module_path",
    "take",
    "terms",
    "trace",
    "trace_architecture",
]

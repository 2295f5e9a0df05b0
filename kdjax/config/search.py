"""The table of `kdjax search`: every field, its default, its meaning and what it may be."""

import math

from kdjax.config import terms
from kdjax.config.fields import Field, is_number, is_text, number, one_of, tuple_of
from kdjax.config.shared import DATA, LABELS_AND_LOGITS, NETWORK, OPTIMIZATION, RUNNING, SEEDS

# The weights of the paper of the search are constant; the ramp is that of the ensemble's.
SEARCH_RAMP = "constant"
RESOURCES = ("flops", "params", "latency", "both", "targets")


def _target(default: float, cost: str) -> Field:
    return Field(
        default,
        f"{cost} to reach: a share of the full network's in (0, 1], an absolute number above 1, "
        "0 for no target; without --config those that are not named are switched off where one is",
        "0, a share in (0, 1] or an absolute number, a whole one above 1",
        # 1.5 could mean a share of 150 % or 1.5 FLOPs; neither makes sense.
        lambda value: 0 <= value <= 1 or (1 < value < math.inf and value == int(value)),
    )


FIELDS: dict[str, Field] = {
    **SEEDS,
    **NETWORK,
    **DATA,
    "teacher.epochs": number(20, "passes of the teacher, where it is trained here", 1),
    "teacher.workdir": Field("", "take the teacher from this workdir instead of training it"),
    "teacher.run": Field("", "run in teacher.workdir to take; empty: its first"),
    "teacher.checkpoint": one_of(
        "last", "which checkpoint of teacher.run: last, or best on validation", "last", "best"
    ),
    "search.epochs": number(20, "passes in which the structure is learnt", 1),
    "search.learning_rate": number(0.05, "constant while the structure is learnt", 0, above=True),
    "search.start": one_of("teacher", "weights the search starts from", "teacher", "fresh"),
    "search.target.flops": _target(0.5, "FLOPs of one image"),
    "search.target.params": _target(0.0, "parameters"),
    "search.target.latency": _target(0.0, "microseconds of a batch, by search.latency_table,"),
    "search.latency_table": Field(
        "", "file of `kdjax bench --layers` with the times of the network's layers"
    ),
    "search.schedule": one_of(
        "joint", "shrink all blocks at once, or one after another", "joint", "sequential"
    ),
    "search.order": tuple_of(
        (),
        "sequential: order of the blocks; empty: from first to last",
        "different names of blocks that are not frozen",
        is_text,
    ),
    "search.descent": number(
        0.7,
        "share of the search over which the cost is led down to its targets",
        0,
        0.95,
        above=True,
    ),
    "search.threshold": number(
        1e-3, "a channel whose scale is not above it is dead", 0, 1, above=True, below=True
    ),
    "search.cost_exponent": number(
        0.5,
        "1: channels are pushed in proportion to the cost that hangs on their group; below 1 the "
        "cost counts less and the loss more",
        0,
        1,
        above=True,
    ),
    "search.criterion": one_of(
        "scale",
        "what a channel is worth: its scale, scale times gradient (taylor), its filter's distance "
        "to the others (fpgm) or norm (magnitude), or a random number",
        "scale",
        "taylor",
        "fpgm",
        "magnitude",
        "random",
    ),
    "search.min_width": Field(
        0.05,
        "fewest channels a group keeps: a share of its channels below 1, or a number from 1; "
        "1 lets a group thin down to a single channel",
        "a share above 0 and below 1, or a whole number from 1",
        lambda value: 0 < value < 1 or (1 <= value < math.inf and value == int(value)),
    ),
    "search.multiple": number(1, "round found widths to a multiple of this", 1),
    "search.expand": Field(False, "widen the found structure uniformly to what the targets allow"),
    "search.blocks.names": tuple_of(
        (), "names of the blocks; empty: the network's own", "different names", is_text
    ),
    "search.blocks.groups": tuple_of(
        (),
        "for each block, glob patterns of its channel groups, separated by spaces; "
        "empty: by the blocks' names",
        "patterns separated by spaces, for each block",
        lambda value: is_text(value) and not value.isspace(),
    ),
    "search.blocks.strengths": tuple_of(
        (),
        "relative strength of the penalty in each block; empty: 1",
        "numbers above 0, finite",
        lambda value: is_number(value) and value > 0,
    ),
    "search.blocks.resources": tuple_of(
        (),
        "what each block is penalised for: flops, params, latency, both (flops and params) or "
        "targets (those with a target); empty: targets",
        f"each one of {', '.join(RESOURCES)}",
        lambda value: value in RESOURCES,
    ),
    "search.blocks.targets": tuple_of(
        (),
        "each block's own target, a share of its cost in (0, 1]; 0: none; empty: none",
        "numbers from 0 to 1",
        lambda value: is_number(value) and 0 <= value <= 1,
    ),
    "search.blocks.frozen": tuple_of(
        (), "names of blocks whose widths stay", "different names of blocks", is_text
    ),
    "distil.epochs": number(20, "passes of the compact network and its rivals", 1),
    "distil.start": one_of(
        "fresh",
        "weights the compact network starts from: fresh ones, or what survived the search",
        "fresh",
        "slim",
    ),
    **terms.term_fields({"hard": 0.5, "feature": 0.0, "soft": 0.5}),
    **terms.ramp_fields(SEARCH_RAMP),
    "temperature": number(4.0, "softens the logits of the soft term", 1e-3, 1e6),
    **LABELS_AND_LOGITS,
    **OPTIMIZATION,
    **RUNNING,
}

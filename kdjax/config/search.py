"""The table of `kdjax search`: every field with its default, meaning and allowed values."""

import math

from kdjax.config import terms
from kdjax.config.fields import Field, is_number, is_text, number, one_of, tuple_of
from kdjax.config.shared import DATA, LABELS_AND_LOGITS, NETWORK, OPTIMIZATION, RUNNING, SEEDS

# In the paper on the search the weights are constant; only the paper on the ensemble has a ramp.
SEARCH_RAMP = "constant"
BLOCK_RESOURCES = ("flops", "params", "latency", "both", "targets")


def _target(default: float, cost: str) -> Field:
    return Field(
        default,
        f"target for {cost}: in (0, 1] a share of the full network's cost, above 1 an absolute "
        "number, 0 for no target; without --config, setting one target switches off the others",
        "0, a share in (0, 1] or an absolute number, a whole one above 1",
        # 1.5 could mean a share of 150 % or 1.5 FLOPs; neither makes sense.
        lambda value: 0 <= value <= 1 or (1 < value < math.inf and value == int(value)),
    )


FIELDS: dict[str, Field] = {
    **SEEDS,
    **NETWORK,
    **DATA,
    "teacher.epochs": number(20, "training epochs of the teacher, if it is trained here", 1),
    "teacher.workdir": Field("", "take the teacher from this workdir instead of training it"),
    "teacher.run": Field(
        "",
        "run in teacher.workdir to take the teacher from; empty: the first seed of the first of "
        "teacher, independent and ensemble that it has",
    ),
    "teacher.checkpoint": one_of(
        "last", "which checkpoint of teacher.run: last, or best on validation", "last", "best"
    ),
    "search.epochs": number(20, "epochs in which the structure is learnt", 1),
    "search.learning_rate": number(
        0.05, "learning rate while the structure is learnt; it is constant", 0, above=True
    ),
    "search.start": one_of(
        "teacher", "weights that the search starts from: the teacher's or fresh", "teacher", "fresh"
    ),
    "search.target.flops": _target(0.5, "the FLOPs of one image"),
    "search.target.params": _target(0.0, "the number of parameters"),
    "search.target.latency": _target(0.0, "the microseconds of a batch by search.latency_table"),
    "search.latency_table": Field(
        "", "file of `kdjax bench --layers` with the times of the network's layers"
    ),
    "search.schedule": one_of(
        "joint", "shrink all blocks at once, or one after another", "joint", "sequential"
    ),
    "search.order": tuple_of(
        (),
        "with search.schedule=sequential: order of the blocks; empty: from first to last",
        "different names of blocks that are not frozen",
        is_text,
    ),
    "search.descent": number(
        0.7,
        "share of the search during which the cost is reduced to its targets",
        0,
        0.95,
        above=True,
    ),
    "search.threshold": number(
        1e-3, "a channel whose scale is at most this is dead", 0, 1, above=True, below=True
    ),
    "search.cost_exponent": number(
        0.5,
        "1: the penalty of a channel is proportional to the cost of its group; below 1: the cost "
        "counts less and the loss more",
        0,
        1,
        above=True,
    ),
    "search.criterion": one_of(
        "scale",
        "how the importance of a channel is measured: its scale, its scale times gradient "
        "(taylor), the distance of its filter to the others (fpgm), the norm of its filter "
        "(magnitude), or a random number",
        "scale",
        "taylor",
        "fpgm",
        "magnitude",
        "random",
    ),
    "search.min_width": Field(
        0.05,
        "fewest channels that a group keeps: below 1 a share of its channels, from 1 a number of "
        "channels; 1 lets a group shrink to a single channel",
        "a share above 0 and below 1, or a whole number from 1",
        lambda value: 0 < value < 1 or (1 <= value < math.inf and value == int(value)),
    ),
    "search.multiple": number(1, "round the widths that were found to multiples of this", 1),
    "search.expand": Field(
        False,
        "after the search, widen all groups by the same factor, as far as the targets allow",
    ),
    "search.blocks.names": tuple_of(
        (), "names of the blocks; empty: the network's own blocks", "different names", is_text
    ),
    "search.blocks.groups": tuple_of(
        (),
        "for each of search.blocks.names, glob patterns of its channel groups, separated by "
        "spaces; empty: the groups of the network's own blocks",
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
        "targets (every cost that has a target); empty: targets",
        f"each one of {', '.join(BLOCK_RESOURCES)}",
        lambda value: value in BLOCK_RESOURCES,
    ),
    "search.blocks.targets": tuple_of(
        (),
        "target of each block by itself, a share of its cost in (0, 1]; 0: none; empty: none",
        "numbers from 0 to 1",
        lambda value: is_number(value) and 0 <= value <= 1,
    ),
    "search.blocks.frozen": tuple_of(
        (), "names of blocks whose widths do not change", "different names of blocks", is_text
    ),
    "distil.epochs": number(
        20, "training epochs of the compact network and of those it is compared with", 1
    ),
    "distil.start": one_of(
        "fresh",
        "weights that the compact network starts from: fresh, or those that survived the search "
        "(slim)",
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

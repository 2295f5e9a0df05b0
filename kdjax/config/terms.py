"""The table of loss terms: what each reads, its own fields, and its default weight.

A weight above 0, ``--config.weights.<term>``, switches a term on. Fields, help texts, checks and
metrics are built from this table, and :mod:`kdjax.train.program.objective` computes only the terms
that are switched on. :func:`kdjax.config.register_term` adds a user's own loss.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from kdjax.config.fields import Field, number, one_of

Reads = Literal[
    "labels",
    "logits",
    "logits and labels",
    "maps",
    "adapted maps",
    "last map",
    "all maps",
    "map sequence",
    "map pairs",
    "embedding",
]


# What terms read that compare logits with a teacher's.
TEACHER_LOGITS = ("logits", "logits and labels")
# What terms read that need neither maps nor embeddings. They have no modules and no memories.
NO_MAPS = ("labels", *TEACHER_LOGITS)


class Parts(NamedTuple):
    """The parts of a term that has trained modules or a memory.

    Each student that has a teacher gets its own module and memory. If the term reads ``maps``,
    ``adapted maps`` or ``map pairs``, each student gets one of each for every block or pair.

    Attributes:
      loss: a function of what the term reads, or of what its module returns, that returns
        ``[batch]``. With a memory it also takes ``memory`` and ``examples``
        (:class:`kdjax.train.program.objective.Examples`), and returns ``([batch], memory for the
        next step)``. The new memory is a constant for the gradient, and must be equal on all of
        ``examples.devices``.
      module: a linen module, called with what the term reads and ``mode``
        (:class:`kdjax.models.execution.Mode`); it returns a tuple. It is trained with the students
        by the same optimiser, and is not part of a deployed student.
      memory: a function ``(*given, examples, key) -> tree of float32 or int32 arrays`` that makes
        the memory before the first step. ``given`` are the shapes of what the loss is given, and
        ``examples`` is the size of the training split. The memory is part of the training state
        and is kept in checkpoints.
    """

    loss: Callable[..., Any]
    module: Any = None
    memory: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of the objective.

    Attributes:
      meaning: a one-line description for users.
      reads: the arguments that its loss is given, taken from a student and its teacher.
        ``labels``: ``(logits, labels)``; labels are integers, or distributions if images are mixed.
        ``logits``: ``(student, teacher)``.
        ``logits and labels``: ``(student, teacher, labels)``; labels are integers, for mixed images
        the likeliest class.
        ``maps``: ``(student, teacher)`` for each block; the results are summed.
        ``adapted maps``: like ``maps``, with the student's maps brought to the teacher's channels.
        ``last map``: ``(student, teacher)`` of the last block.
        ``all maps``: ``(student maps, teacher maps)``, one call for all blocks.
        ``map sequence``: like ``all maps``, with adapted student maps.
        ``map pairs``: ``(student first, student second, teacher first, teacher second)`` for each
        two neighbouring blocks, with adapted student maps.
        ``embedding``: ``(student, teacher)``, the last maps averaged over space.
      loss: a function of these arguments that returns ``[batch]``, or the name of one in
        :mod:`kdjax.losses`; empty: the function with the name of the term. A loss that reads
        ``labels`` is given the logits of all students, ``[students, batch, classes]``, and returns
        ``[students, batch]``.
      fields: the term's own fields, ``--config.<term>.<field>``, passed to the loss by name.
      shared_fields: top-level fields that are passed to the loss: field -> name of the argument.
      parts: replaces the loss of a term with modules or a memory: a function of the term's fields
        that returns :class:`Parts`, or the name of a file in :mod:`kdjax.train.terms` with one.
      coupled: whether the loss compares the examples of a batch. If so, it is also given ``where``,
        the real rows, and ``axis_name``, the devices that share the batch (None: each device
        compares its own examples only).
      weight: the default weight; 0 leaves the term out.
      ramp: how the weight grows by default.
    """

    meaning: str
    reads: Reads
    loss: str | Callable[..., Any] = ""
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    shared_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: str | Callable[..., Parts] = ""
    coupled: bool = False
    weight: float = 0.0
    ramp: str = "constant"


def _temperature(default: float, least: float = 1e-3) -> dict[str, Field]:
    return {"temperature": number(default, "softens the logits", least, 1e6)}


def _part(default: float, meaning: str) -> Field:
    return number(default, meaning, 0)


TERMS: dict[str, Term] = {
    "hard": Term(
        "cross entropy against the labels",
        "labels",
        loss="hard_label_cross_entropy",
        shared_fields={"label_smoothing": "label_smoothing"},
        weight=0.7,
    ),
    "feature": Term(
        "feature distance to the teacher's maps, at block ends",
        "adapted maps",
        loss="feature_mse",
        weight=0.15,
        ramp="cosine",
    ),
    "soft": Term(
        "divergence from the teacher's softened predictions",
        "logits",
        loss="soft_target_kl",
        shared_fields={"temperature": "temperature"},
        weight=0.15,
    ),
    "dkd": Term(
        "decoupled distillation (CVPR 2022); published weight 1",
        "logits and labels",
        fields={
            "target_weight": _part(1.0, "weight of the labelled class against the rest"),
            "other_weight": _part(8.0, "weight of the other classes among themselves"),
            **_temperature(4.0),
        },
    ),
    "dist": Term(
        "correlation loss DIST (NeurIPS 2022); published weight 2",
        "logits",
        fields={
            "inter_weight": _part(1.0, "weight of correlations over the classes of an example"),
            "intra_weight": _part(1.0, "weight of correlations over the examples of a class"),
            **_temperature(1.0),
        },
        coupled=True,
    ),
    "nkd": Term(
        "normalised distillation (ICCV 2023); published weight 1",
        "logits and labels",
        fields={"other_weight": _part(1.5, "weight of the other classes"), **_temperature(1.0)},
    ),
    "mlkd_batch": Term(
        "alignment of predictions between examples (MLKD, CVPR 2023)",
        "logits",
        fields=_temperature(4.0),
        coupled=True,
    ),
    "mlkd_class": Term(
        "alignment of predictions between classes (MLKD, CVPR 2023)",
        "logits",
        fields=_temperature(4.0),
        coupled=True,
    ),
    "attention_transfer": Term(
        "distance of attention maps (ICLR 2017); published weight 1000", "maps"
    ),
    "similarity_preserving": Term(
        "distance of similarities within a batch (ICCV 2019); published weight 3000",
        "last map",
        coupled=True,
    ),
    "nst": Term("discrepancy between the channels of maps (2017); published weight 50", "last map"),
    "rkd": Term(
        "distances and angles between examples (CVPR 2019); published weight 1",
        "embedding",
        fields={
            "distance_weight": _part(25.0, "weight of the distances"),
            "angle_weight": _part(50.0, "weight of the angles"),
        },
        coupled=True,
    ),
    "pkt": Term(
        "neighbourhoods of examples (ECCV 2018); published weight 30000", "embedding", coupled=True
    ),
    "fsp": Term("flow between neighbouring blocks (CVPR 2017); published weight 50", "map pairs"),
    "review_kd": Term(
        "distance of fused maps at several scales (CVPR 2021); published weight 5, rising over 20 "
        "epochs",
        "all maps",
        parts="review_kd",
    ),
    "vid": Term(
        "likelihood of the teacher's maps (variational, CVPR 2019); published weight 1",
        "maps",
        parts="vid",
        fields={"variance": number(5.0, "initial variance of every channel", 1e-4, above=True)},
    ),
    "crd": Term(
        "contrast with the training set's embeddings (ICLR 2020), which it holds in memory for "
        "each student: 8 * dim bytes an image; published weight 0.8",
        "embedding",
        parts="crd",
        fields={
            "dim": number(128, "size of an embedding", 1),
            "negatives": number(16384, "how many other examples to contrast with, at most", 1),
            "momentum": number(
                0.5, "share of a stored embedding that a step keeps", 0, 1, below=True
            ),
            **_temperature(0.07, 0.02),
        },
    ),
}

RAMPS = ("constant", "linear", "cosine")


def term_fields(weights: Mapping[str, float], *names: str) -> dict[str, Field]:
    """Returns the fields of terms for the table of a command: their weights and their own fields.

    Args:
      weights: the command's default weights; a term that is missing here keeps its own.
      *names: the names of the terms; default: all.
    """
    chosen = {name: TERMS[name] for name in names or TERMS}
    fields: dict[str, Field] = {}
    for name, term in chosen.items():
        default = weights.get(name, term.weight)
        fields[f"weights.{name}"] = number(default, f"weight of the {term.meaning}", 0)
    for name, term in chosen.items():
        for field, what in term.fields.items():
            fields[f"{name}.{field}"] = dataclasses.replace(what, meaning=f"{name}: {what.meaning}")
    return fields


def ramp_fields(shape: str | None = None) -> dict[str, Field]:
    """Returns the fields that say how the weight of each term grows, and for how long.

    Args:
      shape: the default of every term; None: each term's own.
    """
    length = number(15.0, "length of the ramps, in epochs; at most the whole run", 0, above=True)
    fields = [ramp_field(name, shape) for name in TERMS]
    return {name: what for each in fields for name, what in each.items()} | {
        "weight_ramp.epochs": length
    }


def ramp_field(name: str, shape: str | None = None) -> dict[str, Field]:
    """Returns the field that says how a term's weight grows.

    Args:
      name: the name of the term.
      shape: the default; None: the term's own.
    """
    meaning = f"how weights.{name} grows from 0 over weight_ramp.epochs"
    return {f"weight_ramp.{name}": one_of(shape or TERMS[name].ramp, meaning, *RAMPS)}

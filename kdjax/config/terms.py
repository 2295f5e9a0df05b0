"""The table of loss terms: what each reads, its own fields, and how it is weighted by default.

A term is switched on by its weight, ``--config.weights.<term>``. Fields, help, checks and metrics
follow from this table, and :mod:`kdjax.train.program.objective` computes what is switched on and
nothing else. :func:`kdjax.config.register_term` adds a loss of one's own.
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


# What terms read that have no parts: nothing of maps, nothing that one student's module could take.
BY_TEACHER = ("logits", "logits and labels")
BY_LOGITS = ("labels", *BY_TEACHER)


class Parts(NamedTuple):
    """What a term is made of that trains modules of its own, or remembers.

    Each student that has a teacher gets a module and a memory of its own; of a term that reads
    ``maps``, ``adapted maps`` or ``map pairs`` one for each block or pair.

    Attributes:
      loss: a function of what the term reads, or of what its module returns, that returns
        ``[batch]``. With a memory it takes ``memory`` and ``examples``
        (:class:`kdjax.train.program.objective.Examples`) too, and returns ``([batch], memory for
        the next step)``: constants for the gradient, equal on all of ``examples.devices``.
      module: a linen module, called with what the term reads and ``mode``
        (:class:`kdjax.models.execution.Mode`); it returns a tuple. It is trained with the students
        by the same optimiser, and is no part of a deployed one.
      memory: ``(*given, examples, key) -> tree of float32 or int32 arrays`` before the first step:
        ``given`` are shapes of what the loss is given, ``examples`` is the size of the training
        split. It is part of the state, and kept in checkpoints.
    """

    loss: Callable[..., Any]
    module: Any = None
    memory: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of the objective.

    Attributes:
      meaning: one line for people.
      reads: what its loss is given, of a student and of its teacher: ``labels``, ``(logits,
        labels)``, the labels integers, or distributions where images are mixed; ``logits``,
        ``(student, teacher)``; ``logits and labels``, ``(student, teacher, labels)``, the labels
        integers, of mixed images the likeliest; ``maps``, for each block ``(student, teacher)``,
        the results summed, or with ``adapted maps`` after the student's have been brought to the
        teacher's channels; ``last map``, of the last block; ``all maps``, ``(student maps, teacher
        maps)``, or with ``map sequence`` adapted; ``map pairs``, the maps of neighbouring blocks,
        adapted, ``(student first, student second, teacher first, teacher second)``;
        ``embedding``, the last map averaged over space.
      loss: a function of that which returns ``[batch]``, or the name of one in
        :mod:`kdjax.losses`; empty: the term's own name. One that reads labels is given the logits
        of all students, ``[students, batch, classes]``, and returns ``[students, batch]``.
      fields: its own fields, ``--config.<term>.<field>``, handed to the loss by name.
      shared_fields: fields of all terms that are handed to the loss: name there -> argument.
      parts: for a term with modules or a memory, in place of the loss: a function of its fields
        that returns :class:`Parts`, or the name of the file of one in :mod:`kdjax.train.terms`.
      coupled: whether the loss judges a batch together: it is handed ``where``, the real rows, and
        ``axis_name``, the devices that share the batch (None: each device's share by itself).
      weight: by default; 0 leaves the term out.
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


def _temperature(default: float) -> dict[str, Field]:
    return {"temperature": number(default, "softens the logits", 1e-3, 1e6)}


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
            "target_weight": _part(1.0, "of the labelled class against the rest"),
            "other_weight": _part(8.0, "of the other classes among themselves"),
            **_temperature(4.0),
        },
    ),
    "dist": Term(
        "correlation loss DIST (NeurIPS 2022); published weight 2",
        "logits",
        fields={
            "inter_weight": _part(1.0, "over the classes of an example"),
            "intra_weight": _part(1.0, "over the examples of a class"),
            **_temperature(1.0),
        },
        coupled=True,
    ),
    "nkd": Term(
        "normalised distillation (ICCV 2023); published weight 1",
        "logits and labels",
        fields={"other_weight": _part(1.5, "of the other classes"), **_temperature(1.0)},
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
            "distance_weight": _part(25.0, "of the distances"),
            "angle_weight": _part(50.0, "of the angles"),
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
        fields={"variance": number(5.0, "of every channel at the start", 1e-4, above=True)},
    ),
    "crd": Term(
        "contrast with the training set's embeddings (ICLR 2020), which it holds in memory for "
        "each student: 8 * dim bytes an image; published weight 0.8",
        "embedding",
        parts="crd",
        fields={
            "dim": number(128, "numbers in an embedding", 1),
            "negatives": number(16384, "other examples that each is contrasted with, at most", 1),
            "momentum": number(0.5, "share of an embedding that a step keeps", 0, 1, below=True),
            **_temperature(0.07),
        },
    ),
}

RAMPS = ("constant", "linear", "cosine")


def term_fields(weights: Mapping[str, float], *names: str) -> dict[str, Field]:
    """The weights and the own fields of terms, for the table of a command.

    Args:
      weights: defaults of the command, in place of the terms' own.
      *names: of the terms; default: all.
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
    """How the weight of each term grows, and how long.

    Args:
      shape: the default of every term; None: each term's own.
    """
    length = number(15.0, "length of the ramps, in epochs; at most the whole run", 0, above=True)
    fields = [ramp_field(name, shape) for name in TERMS]
    return {name: what for each in fields for name, what in each.items()} | {
        "weight_ramp.epochs": length
    }


def ramp_field(name: str, shape: str | None = None) -> dict[str, Field]:
    """The field that says how a term's weight grows.

    Args:
      name: of the term.
      shape: the default; None: the term's own.
    """
    meaning = f"how weights.{name} grows from 0 over weight_ramp.epochs"
    return {f"weight_ramp.{name}": one_of(shape or TERMS[name].ramp, meaning, *RAMPS)}

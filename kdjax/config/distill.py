"""The table of `kdjax distill`: every field with its default, meaning and allowed values."""

from kdjax.config import terms
from kdjax.config.fields import Field, is_count, is_number, is_text, number, one_of, tuple_of
from kdjax.config.shared import (
    DATA,
    LABELS_AND_LOGITS,
    NETWORK,
    NETWORKS,
    OPTIMIZATION,
    RUNNING,
    SEEDS,
)

FIELDS: dict[str, Field] = {
    **SEEDS,
    **NETWORK,
    "student_scales": tuple_of(
        (1.0,),
        "width of each student relative to the full network; the stem keeps its full width",
        "numbers above 0 and at most 1, at least one",
        lambda value: is_number(value) and 0 < value <= 1,
        lambda n: n > 0,
    ),
    "student_widths": tuple_of(
        (),
        "JSON files with the students' width vectors; replaces student_scales",
        "paths",
        is_text,
    ),
    "baseline": Field(True, "also train each student alone, from labels, to compare"),
    **DATA,
    "teacher.workdir": tuple_of(
        (),
        "workdirs of `kdjax train`, `search` or `distill` to take the teacher from; several "
        "teachers teach by their averaged logits; empty: train teacher.network here",
        "paths, in brackets and quotes if there are several or one has a space: '(\"a b\",)'",
        is_text,
    ),
    "teacher.student": tuple_of(
        (),
        "for each teacher.workdir, the network to take, by number or name as in --student of "
        "`kdjax predict`; empty: the first",
        "numbers from 1 or names, one for each of teacher.workdir; in brackets and quotes if there "
        "are several or one has a space: '(\"student 1, alone\",)'",
        lambda value: is_text(value) or (is_count(value) and value > 0),
    ),
    "teacher.seed": tuple_of(
        (),
        "for each teacher.workdir, the seed of the run to take; empty: the first seed",
        "whole numbers from 0, one for each of teacher.workdir",
        is_count,
    ),
    "teacher.checkpoint": one_of(
        "last", "which checkpoint of teacher.workdir: last, or best on validation", "last", "best"
    ),
    "teacher.network": Field(
        "resnet20",
        "family and depth of a teacher trained here",
        f"one of {', '.join(NETWORKS)}, or your own, file.py:function",
    ),
    "teacher.network_width": number(
        1.0, "multiplies every full width of a teacher trained here", 0, 16, above=True
    ),
    "teacher.epochs": number(20, "training epochs of a teacher trained here", 1),
    "teacher.cache_logits": Field(
        False,
        "compute the teacher's logits for all training images once; allowed only if images are "
        "not augmented and no term reads feature maps",
    ),
    **terms.term_fields({"hard": 0.5, "feature": 0.0, "soft": 0.5}),
    **terms.ramp_fields(),
    "temperature": number(4.0, "softens the logits of the soft term", 1e-3, 1e6),
    **LABELS_AND_LOGITS,
    "epochs": number(20, "passes of the students over the training split", 1, resumable=True),
    **OPTIMIZATION,
    **RUNNING,
}

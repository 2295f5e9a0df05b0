"""The table of `kdjax train`: every field with its default, meaning and allowed values."""

from kdjax.config import terms
from kdjax.config.fields import Field, is_number, is_text, number, one_of, tuple_of
from kdjax.config.rules import RULES
from kdjax.config.shared import DATA, LABELS_AND_LOGITS, NETWORK, OPTIMIZATION, RUNNING, SEEDS

FIELDS: dict[str, Field] = {
    "method": one_of(
        "both",
        "what to train: the ensemble, its baselines (independent), or both to compare them",
        "both",
        "ensemble",
        "independent",
    ),
    **SEEDS,
    **NETWORK,
    "student_scales": tuple_of(
        (1.0, 0.8, 0.6, 0.4, 0.2),
        "width of each student relative to the first",
        "numbers above 0 and at most 1, the first 1",
        lambda value: is_number(value) and 0 < value <= 1,
    ),
    "student_widths": tuple_of(
        (),
        "JSON files with the students' width vectors, the pivot's first; all share the pivot's "
        "stem; replaces student_scales",
        "paths",
        is_text,
    ),
    **DATA,
    **terms.term_fields({}),
    **terms.ramp_fields(),
    "temperature": number(2.0, "softens the logits of the soft term", 1e-3, 1e6),
    "ensemble.rule": one_of(
        "average",
        "whose logits a student learns from: "
        + "; ".join(f"{name}: {rule.meaning}" for name, rule in RULES.items()),
        *RULES,
    ),
    "ensemble.ema_decay": number(
        0.999,
        "rule ema: decay of the averaged copies; smaller at the start",
        0,
        1,
        above=True,
        below=True,
    ),
    "teacher_weights": tuple_of(
        (),
        "rule average: share of each student in the ensemble teacher and in the reported average "
        "of all, also for the baselines; empty: equal shares",
        "numbers, none negative, summing to 1",
        lambda value: is_number(value) and value >= 0,
    ),
    "student_weights": tuple_of(
        (),
        "for each student, a factor for the weights of all terms except hard; empty: 1",
        "numbers, none negative, finite",
        lambda value: is_number(value) and value >= 0,
    ),
    "feature_gradient_to_stem": Field(
        True, "whether terms that read maps or embeddings also train the shared stem"
    ),
    **LABELS_AND_LOGITS,
    "epochs": number(15, "passes over the training split", 1, resumable=True),
    **OPTIMIZATION,
    **RUNNING,
}

"""The table of `kdjax train`: every field, its default, its meaning and what it may be."""

from kdjax.config import terms
from kdjax.config.fields import Field, is_number, is_text, number, one_of, tuple_of
from kdjax.config.shared import DATA, LABELS_AND_LOGITS, NETWORK, OPTIMIZATION, RUNNING, SEEDS

RULES = (
    "average",
    "by_accuracy",
    "leave_one_out",
    "wider_only",
    "pairwise",
    "best",
    "min_logit",
    "gate",
    "ema",
)

FIELDS: dict[str, Field] = {
    "method": one_of(
        "both",
        "what to train: the ensemble, its baselines, or both to compare them",
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
        "JSON files with width vectors, the pivot's first, whose stem all share; replaces "
        "student_scales",
        "paths",
        is_text,
    ),
    **DATA,
    **terms.term_fields({}),
    **terms.ramp_fields(),
    "temperature": number(2.0, "softens the logits of the soft term", 1e-3, 1e6),
    "ensemble.rule": one_of(
        "average",
        "who teaches whom, by logits: all the average of all (the paper), or one weighted by how "
        "well each student fits the batch; each the others' average, the wider ones' average, or "
        "every other by itself; all, example by example, the best student, the smallest margins, "
        "or shares that a small trained network gives (gate); each the others' averaged copies "
        "(ema: one more forward pass, and all parameters once more in memory)",
        *RULES,
    ),
    "ensemble.ema_decay": number(
        0.999,
        "rule ema: share of the copies that a step keeps, at most",
        0,
        1,
        above=True,
        below=True,
    ),
    "teacher_weights": tuple_of(
        (),
        "rule average: share of each student in the ensemble teacher, and in the average of all "
        "that is reported, of the baselines too; empty: equal",
        "numbers, none negative, summing to 1",
        lambda value: is_number(value) and value >= 0,
    ),
    "student_weights": tuple_of(
        (),
        "for each student what the weights of all terms but hard are multiplied by; empty: 1",
        "numbers, none negative, finite",
        lambda value: is_number(value) and value >= 0,
    ),
    "feature_gradient_to_stem": Field(
        True, "whether terms of maps and embeddings also train the shared stem"
    ),
    **LABELS_AND_LOGITS,
    "epochs": number(15, "passes over the training split", 1, resumable=True),
    **OPTIMIZATION,
    **RUNNING,
}

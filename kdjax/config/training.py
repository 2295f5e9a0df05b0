"""The table of `kdjax train`: every field, its default, its meaning and what it may be."""

from kdjax.config.fields import Field, is_number, is_text, number, one_of, tuple_of
from kdjax.config.shared import DATA, LABEL_SMOOTHING, NETWORK, OPTIMIZATION, RUNNING, SEEDS

RAMPS = ("constant", "linear", "cosine")
TERMS = ("hard", "feature", "soft")

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
    "weights.hard": number(0.7, "weight of the cross entropy against the labels", 0),
    "weights.feature": number(0.15, "weight of the feature distance to the pivot", 0),
    "weights.soft": number(0.15, "weight of the divergence from the ensemble teacher", 0),
    **{
        f"weight_ramp.{term}": one_of(
            shape, f"how weights.{term} grows from 0 over weight_ramp.epochs", *RAMPS
        )
        for term, shape in (("hard", "constant"), ("feature", "cosine"), ("soft", "constant"))
    },
    "weight_ramp.epochs": number(
        15.0, "length of the ramps, in epochs; at most the whole run", 0, above=True
    ),
    "temperature": number(2.0, "softens the logits of the soft term", 0, above=True),
    "teacher_weights": tuple_of(
        (),
        "share of each student in the ensemble teacher; empty: equal",
        "numbers, none negative, summing to 1",
        lambda value: is_number(value) and value >= 0,
    ),
    "feature_gradient_to_stem": Field(True, "whether the feature term also trains the shared stem"),
    **LABEL_SMOOTHING,
    "epochs": number(15, "passes over the training split", 1, resumable=True),
    **OPTIMIZATION,
    **RUNNING,
}

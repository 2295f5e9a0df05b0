"""The rows of studies: what is trained, and what it is compared with.

A row is a set of overrides of one recipe. It is compared with another row of the same seeds. Rows
of the online ensemble are compared with ``alone``: the same students, each trained by itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Overrides = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of run.

    Attributes:
      what: a description in words.
      overrides: changes to the study's recipe. In a string value, ``{ROW}`` stands for the workdir
        of another row of the same study and seed.
      task: the command that runs the row.
      against: the row whose students are the baselines; empty if the row itself is a baseline. A
        search trains its own baseline, the network thinned uniformly to the same cost. A
        distillation does too: its students alone.
    """

    what: str
    overrides: Overrides
    task: Literal["train", "search", "distill"] = "train"
    against: str = "alone"


ALONE = Row("each student by itself", {"method": "independent"}, against="")
_WHOLE = {"method": "ensemble", "weights.hard": 1.0, "weights.soft": 1.0, "weights.feature": 0.0}
PAPER = {
    "method": "ensemble",
    "weights.hard": 0.7,
    "weights.feature": 0.15,
    "weights.soft": 0.15,
    "weight_ramp.feature": "constant",
    "teacher_weights": "()",
}
_AVERAGE = {**_WHOLE, "teacher_weights": "()"}
STEM = Row("control: a shared stem, no teacher", {**_AVERAGE, "weights.soft": 0.0})
ONLINE = {
    "alone": ALONE,
    "strong": Row(
        "soft targets at full weight, shares by width: .5 .25 .15 .07 .03",
        {**_WHOLE, "teacher_weights": "(.5, .25, .15, .07, .03)"},
    ),
    "soft": Row("soft targets at full weight, plain average", _WHOLE),
    "stem": STEM,
    "paper": Row("the paper's weights .7 .15 .15", PAPER),
    "feature": Row("as soft, with the feature term at .15", {**_WHOLE, "weights.feature": 0.15}),
}
STRONG_DIGITS = Row(
    "soft targets at full weight, shares by width: .4 .25 .2 .1 .05",
    {**_WHOLE, "teacher_weights": "(.4, .25, .2, .1, .05)"},
)
RULES = {
    rule: Row(f"the rule {rule}", {**_AVERAGE, "ensemble.rule": rule})
    for rule in (
        *("average", "by_accuracy", "leave_one_out", "wider_only", "pairwise"),
        *("best", "min_logit", "gate", "ema"),
    )
}


def ablation(strong: Row, shares: Mapping[int, str]) -> dict[str, Row]:
    """Returns rows that each make one change to the row ``strong``.

    Args:
      strong: the row to change.
      shares: number of students (2, 3 and 4) -> shares in the teacher of these widest students, as
        in ``strong``.
    """
    changes = {
        "temperature_1": ("temperature 1", {"temperature": 1.0}),
        "temperature_4": ("temperature 4", {"temperature": 4.0}),
        "soft_half": ("soft targets at weight .5", {"weights.soft": 0.5}),
        "soft_2": ("soft targets at weight 2", {"weights.soft": 2.0}),
        "ramped": ("soft targets ramped up", {"weight_ramp.soft": "cosine"}),
        "feature": ("the feature term at .15", {"weights.feature": 0.15}),
        "dist": ("DIST beside the soft targets", {"weights.dist": 1.0}),
        "nkd": ("NKD in place of soft targets", {"weights.soft": 0.0, "weights.nkd": 1.0}),
    }
    return {
        **{
            name: Row(f"as strong, {what}", {**strong.overrides, **own})
            for name, (what, own) in changes.items()
        },
        **{
            f"students_{number}": Row(
                f"as strong, the {number} widest students",
                {
                    **strong.overrides,
                    "student_scales": str((1.0, 0.8, 0.6, 0.4)[:number]),
                    "teacher_weights": shares[number],
                },
            )
            for number in (4, 3, 2)
        },
    }


def searched(budgets: Mapping[str, tuple[str, Overrides]]) -> dict[str, Row]:
    """Returns a search for each budget, and rows that train the found widths as students.

    Args:
      budgets: name -> (description in words, overrides of the search), the wider budget first.
    """

    def students(found: str) -> str:
        files = [f"'{{{next(iter(budgets))}}}/full.json'"]
        files += [f"'{{{name}}}/{found}.json'" for name in budgets]
        return f"({', '.join(files)})"

    searched, uniform = students("widths"), students("uniform")
    alone = {"method": "independent", "teacher_weights": "()"}
    return {
        **{
            name: Row(what, overrides, "search", against="uniform network of equal cost")
            for name, (what, overrides) in budgets.items()
        },
        "uniform_alone": Row(
            "full and uniform widths, each alone", {**alone, "student_widths": uniform}, against=""
        ),
        "searched_alone": Row(
            "found widths, each alone",
            {**alone, "student_widths": searched},
            "train",
            "uniform_alone",
        ),
        "uniform_online": Row(
            "uniform widths taught online",
            {**_AVERAGE, "student_widths": uniform},
            "train",
            "uniform_alone",
        ),
        "searched_online": Row(
            "found widths taught online",
            {**_AVERAGE, "student_widths": searched},
            "train",
            "searched_alone",
        ),
        "searched_gate": Row(
            "found widths taught online, the rule gate",
            {**RULES["gate"].overrides, "student_widths": searched},
            "train",
            "searched_alone",
        ),
        **{
            f"{kind}_stem": Row(
                f"control: {words} widths, a shared stem, no teacher",
                {**STEM.overrides, "student_widths": widths},
                "train",
                f"{kind}_alone",
            )
            for kind, words, widths in (
                ("uniform", "uniform", uniform),
                ("searched", "found", searched),
            )
        },
    }

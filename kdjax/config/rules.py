"""The table of teacher rules: who teaches whom in an online ensemble, and what each rule needs.

``--config.ensemble.rule`` chooses one. Help texts and checks are built from this table;
:mod:`kdjax.train.program.online_teacher` computes each rule's logits.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Rule:
    """One way to form the teachers of an online ensemble.

    Attributes:
      meaning: from whom a student learns, for help texts.
      takes_shares: whether the rule uses ``teacher_weights``.
      follows_losses: whether it remembers the training losses against the labels, so that the term
        ``hard`` has to be on.
      has_gate: whether its shares come from a small network that reads the pivot's last map.
      has_copies: whether the teachers are averaged copies of the students.
      pivot_learns: whether the widest student has a teacher. If not, the students go from the
        widest to the narrowest.
    """

    meaning: str
    takes_shares: bool = False
    follows_losses: bool = False
    has_gate: bool = False
    has_copies: bool = False
    pivot_learns: bool = True


RULES: Mapping[str, Rule] = {
    "average": Rule("the average of all (as in the paper)", takes_shares=True),
    "by_accuracy": Rule(
        "an average with larger shares for smaller training losses", follows_losses=True
    ),
    "leave_one_out": Rule("the others' average"),
    "wider_only": Rule(
        "the average of the wider ones (the pivot has no teacher)", pivot_learns=False
    ),
    "pairwise": Rule("every other student by itself"),
    "best": Rule("for each example, the best student"),
    "min_logit": Rule("for each class, the smallest of the students' margins to the label"),
    "gate": Rule("an average with shares from a small trained network", has_gate=True),
    "ema": Rule(
        "the others' averaged copies (one more forward pass, and all parameters once more in "
        "memory)",
        has_copies=True,
    ),
}

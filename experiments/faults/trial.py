"""The outcome of one injected fault, and the table of all outcomes."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass
class Trial:
    """One injected fault.

    Attributes:
      fault: the kind of fault.
      detected: whether kdjax reported the fault, or did not have to because nothing was damaged.
      recovered: whether the run then finished properly, or was refused if it should be refused.
      lost_steps: steps lost beyond the last checkpoint.
      wrong_numbers: how many final numbers differ from those of an undisturbed run.
      seconds: until the process ended by itself, if it had to; otherwise 0.
      note: a description for the reader.
    """

    fault: str
    detected: bool
    recovered: bool
    lost_steps: int = 0
    wrong_numbers: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        return self.detected and self.recovered and not self.lost_steps and not self.wrong_numbers


def table(trials: Sequence[Trial]) -> str:
    """Returns a Markdown table with one line per kind of fault, and one of sums."""
    header = (
        "fault",
        "tried",
        "detected",
        "recovered",
        "lost steps",
        "wrong numbers",
        "longest, s",
    )
    rows = [header, ("---", *["---:"] * (len(header) - 1))]
    kinds = list(dict.fromkeys(trial.fault for trial in trials))
    for kind in [*kinds, ""]:
        chosen = [trial for trial in trials if kind in ("", trial.fault)]
        rows.append(
            (
                kind or "**all**",
                str(len(chosen)),
                str(sum(trial.detected for trial in chosen)),
                str(sum(trial.recovered for trial in chosen)),
                str(sum(trial.lost_steps for trial in chosen)),
                str(sum(trial.wrong_numbers for trial in chosen)),
                f"{max((trial.seconds for trial in chosen), default=0):.0f}",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)

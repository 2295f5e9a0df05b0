"""Numbers as text, and sentences that say what a difference means."""

from collections.abc import Sequence
from typing import Any

from kdjax import widths


def named(summary: dict[str, Any]) -> str:
    """Network and data of a result."""
    made = summary["made_with"]
    name = widths.scaled(made["network"], made.get("network_width", 1.0))
    return f"{name} on {made['dataset']}"


def heading(summary: dict[str, Any]) -> str:
    """The title of a table of accuracies: network, data, checkpoint and seeds."""
    of = f"{summary['last_or_best']} checkpoint"
    if summary["last_or_best"] == "best" and summary.keys() & {"teacher", "teachers"}:
        of += ", the teacher's of the checkpoint that taught"
    return f"{named(summary)}: test accuracy of the {of}, %; {over(summary['seeds'])}"


def percent(mean: float | None, half_width: float | None = None) -> str:
    """A mean of fractions in % and, if given, half its interval's width; empty if mean is None."""
    if mean is None:
        return ""
    return f"{100 * mean:.2f}" + ("" if half_width is None else f" ± {100 * half_width:.2f}")


def signed(points: float | None, half_width: float | None = None) -> str:
    """A difference with its sign and, if given, half the width of its interval."""
    if points is None:
        return ""
    return f"{points:+.2f}" + ("" if half_width is None else f" ± {half_width:.2f}")


def unsigned(points: float, half_width: float | None = None) -> str:
    """The absolute value of a difference and, if given, half the width of its interval."""
    return signed(abs(points), half_width).removeprefix("+")


def direction(points: float, half_width: float | None) -> int:
    """1 or -1 for a positive or negative difference that its interval separates from 0, else 0.

    With one seed there is no interval; then the sign alone decides.
    """
    if _seeds_agree(half_width) or abs(points) <= (half_width or 0.0):
        return 0
    return 1 if points > 0 else -1


def _seeds_agree(half_width: float | None) -> bool:
    """Whether all seeds gave the same value, as a few seeds on a small test set may by chance."""
    return half_width is not None and half_width < 1e-9


def sentence(
    better: str, worse: str, unclear: str, points: float, half_width: float | None, seeds: int
) -> str:
    """What a mean difference of accuracy over seeds means, as a sentence without its full stop.

    Args:
      better: the sentence for a positive difference beyond chance; ``{}`` stands for its size in
        points.
      worse: the same for a negative difference beyond chance.
      unclear: for a difference that may be chance; ``{}`` stands for the difference with its sign.
      points: the difference, in percentage points.
      half_width: half the width of its 95 % interval; None for a single seed.
      seeds: the number of seeds.
    """
    way = direction(points, half_width)
    if way == 0:
        text = unclear.format(signed(points, half_width))
    else:
        text = (better if way > 0 else worse).format(unsigned(points, half_width))
    if half_width is None:
        return f"{text}: one seed gives no interval"
    verdict = "more than chance explains" if way else "no difference is shown"
    if _seeds_agree(half_width) and abs(points) > 1e-9:
        verdict = "all seeds agree, which leaves no interval to judge by"
    return f"{text} (95 % interval over {seeds} seeds): {verdict}"


def over(seeds: Sequence[int]) -> str:
    """The seeds, and what ± stands for."""
    names = ", ".join(map(str, seeds))
    if len(seeds) == 1:
        return f"seed {names}"
    return f"means over seeds {names} with 95 % intervals"

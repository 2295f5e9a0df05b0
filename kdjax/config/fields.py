"""What one field of a configuration is, and the kinds of fields there are."""

import dataclasses
from collections.abc import Callable
from typing import Any

_LARGEST = 3e38  # What is above it may be infinite in float32.
_TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
}


class ConfigError(ValueError):
    """A field with a value that is not allowed; the message names field, value and allowed ones."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One configuration field.

    Attributes:
      default: also decides the type.
      meaning: one line for people.
      allowed: what a valid value is, in words.
      valid: value -> bool.
      resumable: whether a run may be continued with another value.
    """

    default: Any
    meaning: str
    allowed: str = "anything"
    valid: Callable[[Any], bool] = lambda value: True
    resumable: bool = False

    @property
    def expected(self) -> str:
        """The type and what is allowed of it, in words."""
        name = _TYPES[type(self.default)]
        if isinstance(self.default, tuple) and self.default:
            name += f" such as {self.default}"
        return f"{name}: {self.allowed}" if self.allowed != "anything" else name


def one_of(default: str, meaning: str, *known: str, resumable: bool = False) -> Field:
    """A field that takes one of a few words.

    Args:
      default: one of ``known``.
      meaning: one line for people.
      known: the allowed words.
      resumable: whether a run may be continued with another value.
    """
    text = f"one of {', '.join(known)}"
    return Field(default, meaning, text, lambda value: value in known, resumable)


def number(
    default: float,
    meaning: str,
    low: float,
    high: float = float("inf"),
    *,
    above: bool = False,
    below: bool = False,
    resumable: bool = False,
) -> Field:
    """A field that takes a number from ``low`` to ``high``.

    Args:
      default: an int for a field of whole numbers, else a float.
      meaning: one line for people.
      low: the smallest allowed number.
      high: the largest allowed number; infinity: there is no limit, but the number must be finite.
      above: whether ``low`` itself is not allowed.
      below: whether ``high`` itself is not allowed.
      resumable: whether a run may be continued with another value.
    """
    text = f"{'above' if above else 'at least'} {low:g}"
    if high != float("inf"):
        text += f" and {'below' if below else 'at most'} {high:g}"
    elif isinstance(default, float):
        text += ", finite"

    def valid(value: float) -> bool:
        # NaN fails every comparison.
        return (value > low or (value == low and not above)) and (
            value < min(high, _LARGEST) or (value == high <= _LARGEST and not below)
        )

    return Field(default, meaning, text, valid, resumable)


def tuple_of(
    default: tuple[Any, ...],
    meaning: str,
    allowed: str,
    valid: Callable[[Any], bool],
    length: Callable[[int], bool] = lambda n: True,
    *,
    resumable: bool = False,
) -> Field:
    """A field that takes a tuple.

    Args:
      default: a tuple of the right kind.
      meaning: one line for people.
      allowed: what a valid tuple is, in words.
      valid: entry -> bool; every entry must pass.
      length: number of entries -> bool; it must pass too.
      resumable: whether a run may be continued with another value.
    """
    return Field(
        default,
        meaning,
        allowed,
        lambda values: length(len(values)) and all(valid(value) for value in values),
        resumable,
    )


def is_number(value: Any) -> bool:
    """Whether a tuple's entry is a number, and finite; ``True`` does not count as one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def is_count(value: Any) -> bool:
    """Whether a tuple's entry is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    """Whether a tuple's entry is a string that is not empty."""
    return isinstance(value, str) and value != ""

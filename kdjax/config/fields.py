"""The class of a configuration field, and functions that make fields of each kind."""

import dataclasses
from collections.abc import Callable
from typing import Any

_LARGEST = 3e38  # Larger numbers may be infinite in float32.
_TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
}


class ConfigError(ValueError):
    """A field has a wrong value; the message names the field, its value and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One configuration field.

    Attributes:
      default: the default value; its type is the type of the field.
      meaning: a one-line description for users.
      allowed: what a valid value is, in words.
      valid: function ``value -> bool`` that says whether a value is valid.
      resumable: whether a run may be continued with another value; ``seeds`` and ``epochs`` may
        only grow (:mod:`kdjax.config.stored`).
    """

    default: Any
    meaning: str
    allowed: str = "anything"
    valid: Callable[[Any], bool] = lambda value: True
    resumable: bool = False

    @property
    def expected(self) -> str:
        """The type of the field and its allowed values, in words."""
        name = _TYPES[type(self.default)]
        if isinstance(self.default, tuple) and self.default:
            name += f" such as {self.default}"
        return f"{name}: {self.allowed}" if self.allowed != "anything" else name


def wrong_type(name: str, value: Any, field: Field) -> ConfigError:
    """The error for a value that does not have the type of its field.

    Args:
      name: the dotted name of the field.
      value: the value, or its text.
      field: the field.
    """
    return ConfigError(f"config.{name} is {value!r}: expected {field.expected} ({field.meaning})")


def one_of(default: str, meaning: str, *known: str, resumable: bool = False) -> Field:
    """A field that takes one of a few words.

    Args:
      default: one of ``known``.
      meaning: a one-line description for users.
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
      meaning: a one-line description for users.
      low: the smallest allowed number.
      high: the largest allowed number; infinity means no limit, but the number must be finite.
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
        # NaN fails every comparison, so it is never valid.
        fits_low = value > low if above else value >= low
        fits_high = value < high if below else value <= high
        return fits_low and fits_high and value <= _LARGEST

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
      meaning: a one-line description for users.
      allowed: what a valid tuple is, in words.
      valid: function ``entry -> bool``; every entry must pass.
      length: function ``number of entries -> bool``; the number must pass too.
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
    """Whether a tuple's entry is a finite number; booleans do not count as numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def is_count(value: Any) -> bool:
    """Whether a tuple's entry is a whole number, at least 0; booleans do not count as numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    """Whether a tuple's entry is a string that is not empty."""
    return isinstance(value, str) and value != ""

"""Width vectors: how many channels each named channel group of a network has.

A width vector is the whole description of a thinned network. It is written by hand, by a
multiplier, or by the structure search, and stored as sorted JSON. An architecture turns it into a
module. Nothing here imports jax.
"""

import json
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdjax import atomic

# Far above any real network, but low enough that a mistake cannot bring the machine down before an
# error is raised.
LARGEST_WIDTH = 1 << 16
_LARGEST_FILE = 1 << 20  # bytes


class WidthVector(Mapping[str, int]):
    """An immutable, hashable map from channel-group name to number of channels.

    >>> WidthVector({"stem": 16, "stage1": 12})["stage1"]
    12
    """

    def __init__(self, widths: Mapping[str, int]):
        self._widths = dict(widths)

    def __getitem__(self, group: str) -> int:
        return self._widths[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)

    def __hash__(self) -> int:
        return hash(frozenset(self._widths.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._widths == dict(other)

    def __repr__(self) -> str:
        return f"WidthVector({self._widths})"


def scaled(network: str, multiplier: float) -> str:
    """The name of a network, followed by the multiplier of its widths if that is not 1.

    >>> scaled("resnet8", 0.625)
    'resnet8 x 0.625'
    """
    return network if multiplier == 1 else f"{network} x {multiplier:g}"


def scale(widths: Mapping[str, int], factor: float, keep: Iterable[str] = ()) -> WidthVector:
    """Multiplies every width by ``factor``, rounds down, at least to 1; groups in ``keep`` stay.

    >>> dict(scale({"stem": 16, "stage1": 16, "stage2": 32}, 0.8, keep=("stem",)))
    {'stem': 16, 'stage1': 12, 'stage2': 25}

    Args:
      widths: channel group -> width.
      factor: a finite number above 0.
      keep: names of groups.

    Raises:
      ValueError: if ``factor`` is not a finite number above 0, or ``keep`` names an unknown group.
    """
    check_factor(factor)
    keep = set(keep)
    if unknown := keep - set(widths):
        raise ValueError(f"keep names {sorted(unknown)}: the groups are {list(widths)}")
    return WidthVector(
        {
            # A product that should be whole may be slightly below the whole number (0.29 * 100).
            group: channels if group in keep else max(1, math.floor(channels * factor + 1e-9))
            for group, channels in widths.items()
        }
    )


def check_factor(factor: float) -> None:
    """Raises ValueError unless ``factor`` is a finite number above 0."""
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"the width factor is {factor}: it must be a finite number above 0")


def check(
    widths: Mapping[str, int], reference: Mapping[str, int], *, name: str = "widths"
) -> WidthVector:
    """Checks that ``widths`` describes a network with the groups of ``reference``.

    Args:
      widths: the vector to check.
      reference: the architecture's full widths; only its group names matter.
      name: what the vector is called in error messages.

    Returns:
      ``widths`` as a WidthVector, groups in the order of ``reference``.

    Raises:
      ValueError: if the vector is empty, misses a group, has an unknown one, or a width that is
        not a whole number from 1 to :data:`LARGEST_WIDTH`.
    """
    if not isinstance(widths, Mapping):
        raise ValueError(f"{name} is {widths!r}: expected a map from group to channels")
    if not widths:
        raise ValueError(f"{name} is empty: it needs the groups {list(reference)}")
    if unknown := [group for group in widths if group not in reference]:
        raise ValueError(f"{name} has unknown groups {unknown}: the groups are {list(reference)}")
    if missing := [group for group in reference if group not in widths]:
        raise ValueError(f"{name} misses the groups {missing}")
    whole = {group: _whole(channels, f"{name}[{group!r}]") for group, channels in widths.items()}
    return WidthVector({group: whole[group] for group in reference})


def _whole(channels: Any, name: str) -> int:
    """Checks a number of channels; an int is returned as it is: it may carry a name for tracing."""
    try:
        found = channels if isinstance(channels, int) else operator.index(channels)
    except TypeError:
        found = False
    if isinstance(found, bool):
        raise ValueError(f"{name} is {channels!r}: expected a whole number")
    if found < 1:
        raise ValueError(f"{name} is {found}: a group needs at least 1 channel")
    if found > LARGEST_WIDTH:
        raise ValueError(f"{name} is {found}: at most {LARGEST_WIDTH} channels")
    return found


def check_students(
    student_widths: Iterable[Mapping[str, int]],
    reference: Mapping[str, int],
    *,
    shared: Iterable[str] = (),
) -> tuple[WidthVector, ...]:
    """Checks the widths of the students of an ensemble. The first student is the pivot.

    Args:
      student_widths: one vector per student.
      reference: the architecture's full widths.
      shared: groups that all students share (the stem), so that their widths must be equal.

    Returns:
      The checked vectors.

    Raises:
      ValueError: if a vector is wrong by itself (:func:`check`), fewer than two are given, a
        student is wider than the first in some group, or students differ in a shared group.
    """
    vectors = tuple(
        check(widths, reference, name=f"student_widths[{index}]")
        for index, widths in enumerate(student_widths)
    )
    if len(vectors) < 2:
        raise ValueError(
            f"student_widths has {len(vectors)} entries: an ensemble needs at least 2 students"
        )
    pivot = vectors[0]
    for index, widths in enumerate(vectors[1:], start=1):
        for group in reference:
            if group in set(shared) and widths[group] != pivot[group]:
                raise ValueError(
                    f"student_widths[{index}][{group!r}] is {widths[group]}: all students share "
                    f"this group, and the first has {pivot[group]}"
                )
            if widths[group] > pivot[group]:
                raise ValueError(
                    f"student_widths[{index}][{group!r}] is {widths[group]}, wider than the first "
                    f"student's {pivot[group]}: the pivot comes first and is the widest"
                )
    return vectors


def with_shared(
    widths: Mapping[str, int], pivot: Mapping[str, int], shared: Iterable[str]
) -> WidthVector:
    """Returns a student's widths, with the widths of the shared groups taken from the pivot.

    >>> dict(with_shared({"stem": 7, "stage1": 7}, {"stem": 16, "stage1": 16}, ("stem",)))
    {'stem': 16, 'stage1': 7}

    Args:
      widths: the student's channel group -> width.
      pivot: the pivot's channel group -> width.
      shared: names of the groups that take the pivot's width.
    """
    return WidthVector({**widths, **{group: pivot[group] for group in shared}})


def save(widths: Mapping[str, int], path: str | os.PathLike[str]) -> None:
    """Writes a width vector as sorted JSON, either completely or not at all.

    Raises:
      OSError: if ``path`` cannot be written, for example on a full disk; the message names it.
    """
    atomic.write(Path(path), json.dumps(dict(widths), indent=1, sort_keys=True) + "\n")


def load(path: str | os.PathLike[str], reference: Mapping[str, int] | None = None) -> WidthVector:
    """Reads a width vector written by :func:`save`.

    Args:
      path: a JSON file that holds a flat object from group name to whole number.
      reference: if given, the architecture's full widths to check it against.

    Raises:
      ValueError: if the file is not such an object, or does not fit ``reference``; the message
        names the file and the group.
      FileNotFoundError: if there is no such file.
    """
    if (size := os.stat(path).st_size) > _LARGEST_FILE:
        raise ValueError(f"{path} has {size:,} bytes: a width vector has at most {_LARGEST_FILE:,}")
    try:
        content = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}: expected an object")
    return check(content, content if reference is None else reference, name=str(path))

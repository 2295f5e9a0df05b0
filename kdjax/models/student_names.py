"""The names of students in trees of variables."""

import re
from collections.abc import Mapping
from typing import Any

STUDENT = re.compile(r"student_\d+")


def student_name(number: int) -> str:
    """The name of a student's variables, such as ``student_1``; students are counted from 1."""
    return f"student_{number}"


def share_stem(params: Mapping[str, Any]) -> bool:
    """Whether students share a stem, so that each has the parameters of its branch only.

    Args:
      params: the parameters of students by name, and those of the stem if it has any.
    """
    students = [tree for name, tree in params.items() if STUDENT.fullmatch(name)]
    return "stem" in params or any("branch" not in tree for tree in students)

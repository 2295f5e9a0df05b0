"""The names of students in trees of variables."""

import re

STUDENT = re.compile(r"student_\d+")


def student_name(number: int) -> str:
    """The name of a student's variables, such as ``student_1``; students are counted from 1."""
    return f"student_{number}"

"""The results of a distillation as a table and in words."""

from typing import Any

from rich.console import Console

from kdjax.report.terminal import Grid, markdown, print_grids, print_text
from kdjax.report.words import heading, percent, sentence, signed


def distill_grid(summary: dict[str, Any]) -> Grid:
    """A table with a row for each teacher, then for each student: alone, distilled, and the gain.

    Accuracies are in %, gains in percentage points, both with half the width of their intervals
    over seeds.
    """
    made, teachers, students = summary["made_with"], summary["teachers"], summary["students"]
    title = heading(summary) + " (teacher: one run)"
    both = "baseline" in students[0]
    columns = ["network", "parameters", "MACs", *(["alone"] if both else []), "distilled"]
    columns += ["gain,\npoints"] if both else []
    columns += ["minus teacher,\npoints"]
    rows = []
    for number, teacher in enumerate(teachers, start=1):
        name = f"teacher {number}" if len(teachers) > 1 else "teacher"
        place = [f"{name}, {teacher['network']}", *_cost(teacher), percent(teacher["test"])]
        rows.append(place + [""] * (len(columns) - len(place)))
    if average := summary.get("average_of_teachers"):
        place = ["average of teachers", "", "", percent(average["test"])]
        rows.append(place + [""] * (len(columns) - len(place)))
    for student in students:
        against = student["distilled_minus_teacher_points"]
        gain = [signed(student["gain_points"], student["gain_half_width"])] if both else []
        rows.append(
            [
                f"student {student['index']}, {made['network']}",
                *_cost(student),
                *(
                    percent(student[role]["test"], student[role]["test_half_width"])
                    for role in ("baseline", "distilled")
                    if role in student
                ),
                *gain,
                signed(against["mean"], against["half_width"]),
            ]
        )
    if both and len(students) > 1:
        mean = summary["mean_gain"]
        mean_gain = signed(mean["points"], mean["half_width"])
        rows.append(["mean gain", "", "", "", "", mean_gain, ""])
    return Grid(title, columns, rows, [2, 1, len(columns) - 1])


def verdict(summary: dict[str, Any]) -> str:
    """What the table says about the teacher, in one sentence for each student."""
    lines = []
    for student in summary["students"]:
        who = "the student" if len(summary["students"]) == 1 else f"student {student['index']}"
        if "baseline" in student:
            lines.append(
                sentence(
                    f"Distillation gains {who} {{}} points over training it alone",
                    f"Distillation loses {who} {{}} points against training it alone",
                    f"Distilled minus alone, of {who}, is {{}} points",
                    student["gain_points"],
                    student["gain_half_width"],
                    len(summary["seeds"]),
                )
            )
    return "\n".join(f"{line}." for line in lines)


def print_distill(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints :func:`distill_grid` and :func:`verdict`."""
    print_grids([distill_grid(summary)], console, whole="report/table.md and results.json")
    if text := verdict(summary):
        print_text(text, console)


def distill_markdown(summary: dict[str, Any]) -> str:
    """Returns :func:`distill_grid` and :func:`verdict` as Markdown."""
    lines = "".join(f"\n{line}\n" for line in verdict(summary).splitlines())
    return markdown(distill_grid(summary)) + lines


def _cost(entry: dict[str, Any]) -> list[str]:
    return [f"{entry['params']:,}", f"{entry['macs'] / 1e6:.2f} M"]

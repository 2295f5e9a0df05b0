"""Tables as they are printed, at any width."""

import io

import pytest
from rich.console import Console

from kdjax import report
from kdjax.report.search_table import search_markdown
from kdjax.report.table import table_markdown

BASELINES = [[90.0, 91.0, 92.0], [80.0, 82.0, 84.0]]
GAINS = [[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]]


def printed(show, *arguments, width):
    console = Console(file=io.StringIO(), width=width)
    show(*arguments, console)
    return console.file.getvalue()


def table_of(text):
    """Returns the lines of the table without title and remarks."""
    return [line for line in text.splitlines() if line and line[0] in "┏┃┡│└"]


def cells(text):
    """Returns the texts of the table's rows by their first cell."""
    rows = [line.strip("│").split("│") for line in table_of(text) if line.startswith("│")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_wide_terminal_shows_every_column(make_training):
    text = printed(report.print_table, make_training(BASELINES, GAINS), width=120)
    rows = cells(text)
    # t(.975, 2 degrees of freedom) = 4.3027: 4.3027 * 1 / sqrt(3) = 2.484, twice that for 80..84.
    assert rows["1"] == [
        "1.00", "1,234,567", "40.00 M", "91.00 ± 2.48", "93.00 ± 4.97", "+2.00 ± 2.48", "+2.20",
    ]  # fmt: skip
    assert rows["2"][3:] == ["82.00 ± 4.97", "82.00 ± 7.45", "+0.00 ± 2.48", "+0.00"]
    assert rows["average of all"] == ["", "", "", "90.00 ± 0.00", "90.00 ± 0.00", "", ""]
    # It is over the seeds' means of all students: (1 - 1) / 2, (2 + 0) / 2, (3 + 1) / 2.
    assert rows["mean gain"] == ["", "", "", "", "", "+1.00 ± 2.48", ""]
    assert "do not fit" not in text
    assert "seeds 0, 1, 2 with 95 % intervals" in " ".join(text.split())


@pytest.mark.parametrize(
    ("width", "shown", "missing"),
    [
        (80, ["1,234,567", "91.00 ± 2.48", "93.00 ± 4.97", "+2.00 ± 2.48"],
         "width; MACs; relative gain, %"),
        (50, ["93.00 ± 4.97", "+2.00 ± 2.48"],
         "width; parameters; MACs; baseline; relative gain, %"),
        (20, ["+2.00 ± 2.48"],
         "width; parameters; MACs; baseline; distilled; relative gain, %"),
    ],
)  # fmt: skip
def test_a_narrow_terminal_loses_columns_and_no_digit(make_training, width, shown, missing):
    text = printed(report.print_table, make_training(BASELINES, GAINS), width=width)
    assert cells(text)["1"] == shown
    assert "…" not in text
    assert max(map(len, table_of(text))) <= max(width, 33)  # The last two columns always stay.
    assert f"Columns that do not fit here: {missing} (all are in" in text
    assert "results.json" in text


def test_one_seed_has_no_deviation_and_no_interval(make_training):
    text = printed(report.print_table, make_training([[90.0], [80.0]], [[1.0], [2.0]]), width=120)
    assert cells(text)["1"][3:] == ["90.00", "91.00", "+1.00", "+1.11"]
    assert cells(text)["mean gain"][5] == "+1.50"
    assert "±" not in text
    assert "checkpoint, %; seed 0 " in text


def test_a_single_method_is_a_table_without_gains(make_training):
    summary = make_training(BASELINES, GAINS)
    for student in summary["students"]:
        del student["distilled"]
    del summary["mean_gain"]
    text = printed(report.print_table, summary, width=120)
    assert set(cells(text)) == {"1", "2", "average of all"}
    assert "Distillation" not in text + table_markdown(summary)


def test_names_are_printed_as_they_are(make_training, make_search):
    summary = make_training(BASELINES, GAINS)
    named = {"network_width": 0.5, "dataset": "folder:dog:[red]x"}
    summary["made_with"] = summary["made_with"] | named
    assert "resnet8 x 0.5 on folder:dog:[red]x:" in printed(report.print_table, summary, width=120)
    found = make_search([91.0, 92.0], [91.0, 92.0], [91.0, 92.0])
    found["made_with"] = found["made_with"] | {"dataset": "folder:dog:[red]x"}
    assert "resnet8 on folder:dog:" in printed(report.print_search, found, width=120)
    text = printed(report.print_evaluation, evaluation(["a:dog:b"]), width=80)
    assert "a:dog:b" in text


def evaluation(names):
    """Returns a result of `kdjax evaluate` for networks with these names and equal numbers."""
    network = {
        "accuracy": 0.5,
        "accuracy_half_width": None,
        "top5": None,
        "class_accuracy": [0.5, 0.5],
        "runs": [{"seed": 0, "step": 3}],
    }
    return {
        "data": {"name": "folder:dog:[red]x"},
        "split": "test",
        "examples": 8,
        "checkpoint": "last",
        "classes": [{"name": name, "examples": 4} for name in ("one", "two")],
        "networks": [{"name": name, **network} for name in names],
        "remarks": [],
    }


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_comparison_of_a_search_fits(make_search, width):
    summary = make_search([91.0, 92.0, 93.0], [90.0, 91.0, 92.0], [90.0, 92.0, 91.0])
    text = printed(report.print_search, summary, width=width)
    assert max(map(len, table_of(text))) <= width
    assert cells(text)["compact, distilled"][-1] == "92.00 ± 2.48"
    assert cells(text)["teacher"][-1] == "90.00"
    assert ("do not fit here" in text) == (width < 120)


def test_markdown_has_every_column_and_the_sentence(make_training, make_search):
    text = table_markdown(make_training(BASELINES, GAINS))
    heading = "| student | width | parameters | MACs | baseline | distilled | gain, points |"
    assert f"{heading} relative gain, % |" in text
    assert "| mean gain |  |  |  |  |  | +1.00 ± 2.48 |  |" in text
    assert "Distillation changes accuracy by +1.00 ± 2.48 points" in text
    search = search_markdown(make_search([91.0, 92.0], [91.0, 91.5], [90.0, 91.0]))
    assert "| network | parameters | share of parameters | MACs | share of MACs |" in search
    assert "- All candidates started from fresh weights." in search


def test_a_distillation_shows_teacher_alone_and_distilled(make_distilling):
    summary = make_distilling(BASELINES[:1], GAINS[:1])
    text = printed(report.print_distill, summary, width=140)
    rows = cells(text)
    assert rows["teacher, wrn_16_2"] == ["7,654,321", "90.00 M", "95.00", "", "", ""]
    # 91 + 2 is 2 below the teacher. The seeds 91, 93 and 95 have s = 2: 4.3027 * 2 / sqrt(3).
    assert rows["student 1, resnet8"] == [
        "1,234,567", "40.00 M", "91.00 ± 2.48", "93.00 ± 4.97", "+2.00 ± 2.48", "-2.00 ± 4.97",
    ]  # fmt: skip
    assert "mean gain" not in rows
    assert "Distilled minus alone, of the student, is +2.00 ± 2.48 points" in text
    assert "no difference is shown." in text


def test_several_teachers_and_students_have_a_mean_row(make_distilling):
    summary = make_distilling(BASELINES, GAINS, teachers=(95.0, 96.0))
    rows = cells(printed(report.print_distill, summary, width=140))
    assert [rows[f"teacher {n}, wrn_16_2"][2] for n in (1, 2)] == ["95.00", "96.00"]
    assert rows["average of teachers"][2] == "97.00"
    assert rows["mean gain"][4] == "+1.00 ± 2.48"
    assert rows["student 1, resnet8"][5] == "-4.00 ± 4.97"


def test_a_distillation_without_baselines_has_no_gains(make_distilling):
    summary = make_distilling(BASELINES[:1], GAINS[:1])
    del summary["students"][0]["baseline"], summary["mean_gain"]
    text = printed(report.print_distill, summary, width=140)
    assert cells(text)["student 1, resnet8"] == [
        "1,234,567", "40.00 M", "93.00 ± 4.97", "-2.00 ± 4.97",
    ]  # fmt: skip
    assert "Distill" not in text


def test_many_networks_of_an_evaluation_leave_the_first_ones():
    summary = evaluation([f"student {number}, distilled" for number in range(1, 10)])
    text = printed(report.print_evaluation, summary, width=60)
    assert cells(text)["one"] == ["50.00"] * 3
    assert "Columns that do not fit here: images; student 4, distilled;" in text
    assert "all are in the file of --out" in text

"""Tables on a terminal: columns that do not fit are left out and named; text is never cut."""

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNKNOWN = 120  # Characters in a line if the output is not a terminal; rich would take 80.


class Grid(NamedTuple):
    """A table as text.

    Attributes:
      title: one line.
      columns: headings; a heading may have several lines.
      rows: for each row, one text per column.
      least_first: indices of the columns that may be left out, in the order of leaving them out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    least_first: Sequence[int] = ()


def new_console() -> Console:
    """A console that prints names as they are: no markup, no emoji, no colours for numbers."""
    width = None if sys.stdout.isatty() else _UNKNOWN
    return Console(width=width, markup=False, emoji=False, highlight=False)


def print_grids(grids: Iterable[Grid], console: Console | None = None, *, whole: str = "") -> None:
    """Prints tables one under another, each with as many columns as the terminal has room for.

    Args:
      grids: the tables.
      console: where to print; default: standard output.
      whole: where all columns can be read, such as ``results.json``.
    """
    console = console or new_console()
    for grid in grids:
        shown = fitting(grid, console.width)
        console.print(_table(grid, shown), crop=False)
        if len(shown) < len(grid.columns):
            names = [_line(name) for i, name in enumerate(grid.columns) if i not in shown]
            place = f"all are in {whole}" if whole else "a wider terminal shows all"
            print_text(f"Columns that do not fit here: {'; '.join(names)} ({place})", console)


def print_text(text: str, console: Console | None = None) -> None:
    """Prints lines of text; on a terminal long lines are broken between words."""
    console = console or new_console()
    console.print(Text(text), soft_wrap=not console.is_terminal)


def fitting(grid: Grid, width: int) -> list[int]:
    """Indices of the columns that fit into ``width``; the least important ones are left out."""
    shown = list(range(len(grid.columns)))
    for number in grid.least_first:
        if _width(grid, shown) <= width:
            break
        shown.remove(number)
    return shown


def _width(grid: Grid, shown: Sequence[int]) -> int:
    """The width of the table with these columns.

    Each column has a space on both sides and a rule on its left.
    """
    cells = [
        max(cell_len(line) for line in [*grid.columns[i].split("\n"), *(r[i] for r in grid.rows)])
        for i in shown
    ]
    return sum(cells) + 3 * len(cells) + 1


def _table(grid: Grid, shown: Sequence[int]) -> Table:
    # Text objects are used because rich looks for markup and emoji in strings. The width is given,
    # so that a table whose most important columns do not fit is too wide instead of cut.
    table = Table(title=Text(grid.title), width=_width(grid, shown))
    for number in shown:
        table.add_column(Text(grid.columns[number]), justify="right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(row[number]) for number in shown))
    return table


def markdown(grid: Grid) -> str:
    """Returns a table as Markdown, with all columns, under its title."""
    rows = [[_line(column) for column in grid.columns], ["---:"] * len(grid.columns), *grid.rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([grid.title, "", *lines]) + "\n"


def _line(heading: str) -> str:
    return heading.replace("\n", " ")

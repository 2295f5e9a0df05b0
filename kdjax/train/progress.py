"""What a person sees of a training run: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SPACING = 10.0  # seconds between lines with news, at least
_SILENCE = 60.0  # seconds after which a line appears without news


class ProgressReport:
    """Progress over all runs of an experiment.

    On a terminal one bar covers all steps, with images/s, the latest validation accuracies and
    time left. Elsewhere lines are printed, seconds apart.
    """

    def __init__(
        self,
        total_images: int,
        console: Console | None = None,
        *,
        bar: bool = True,
        silent: bool = False,
    ):
        self.console = console or Console(highlight=False, soft_wrap=True, quiet=silent)
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._total, self._done = total_images, 0
        if bar and self.console.is_terminal and not silent:
            self._bar = Progress(
                TextColumn("{task.fields[run]} {task.fields[place]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[rate]} {task.fields[news]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=self.console,
            )
            self._task = self._bar.add_task(
                "", total=total_images, run="compiling", place="", rate="", news=""
            )

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        self.console.print(text, markup=False)

    def skip(self, images: int) -> None:
        """Counts images of an earlier session as done."""
        self._done += images
        if self._bar is not None:
            self._bar.update(self._task, advance=images)

    def advance(self, images: int, run: str, place: str, rate: float) -> None:
        """Counts trained images; ``rate`` is in images/s, 0 while unknown."""
        self._done += images
        if self._bar is not None:
            shown = f"{rate:,.0f} images/s" if rate else ""
            self._bar.update(self._task, advance=images, run=run, place=place, rate=shown)
        else:
            self._line(run, place, rate, "", _SILENCE)

    def news(self, run: str, place: str, rate: float, values: dict[str, Any]) -> None:
        """Shows the means of an evaluation; ``values["accuracy"]`` has one per student."""
        text = "val " + accuracies(values["accuracy"])
        if self._bar is not None:
            self._bar.update(self._task, news=text)
        else:
            self._line(run, place, rate, text, _SPACING)

    def _line(self, run: str, place: str, rate: float, text: str, spacing: float) -> None:
        """Prints a line unless the last one is less than ``spacing`` seconds old."""
        if time.monotonic() - self._printed >= spacing:
            self._printed = time.monotonic()
            share = self._done / self._total
            speed = f"{rate:,.0f} images/s" if rate else "compiled"
            self.say(f"{share:4.0%}  {run} {place}  {speed}  {text}".rstrip())


def accuracies(values: Sequence[float]) -> str:
    """Percentages with one decimal."""
    return " ".join(f"{100 * value:.1f}" for value in values) + " %"

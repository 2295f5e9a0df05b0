"""Shows the progress of training: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SPACING = 10.0  # the fewest seconds between lines with new accuracies
_SILENCE = 60.0  # the fewest seconds before a line without new accuracies


class ProgressReport:
    """Progress over all runs of an experiment.

    On a terminal one bar covers all steps, with images/s, the latest validation accuracies and
    time left. Elsewhere lines are printed, at least 10 seconds apart, and one at the end.
    """

    def __init__(
        self,
        total_images: int,
        console: Console | None = None,
        *,
        bar: bool = True,
        silent: bool = False,
    ):
        """Starts with no image trained.

        Args:
          total_images: images of all epochs of all runs, above 0.
          console: where to print; default: standard output.
          bar: whether to show a bar on a terminal.
          silent: whether nothing is shown, because another process shows it.
        """
        # Names of files and datasets are printed as they are: no markup, no emoji.
        self.console = console or Console(
            highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=silent
        )
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._total = total_images
        self._before, self._planned, self._done = 0, 0, 0
        self._worked = False
        if bar and self.console.is_terminal and not silent:
            self._bar = Progress(
                TextColumn("{task.fields[run]} {task.fields[place]}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[rate]} {task.fields[news]}", markup=False),
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

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._worked:
            self.say(f"{self._percent()}  {'done' if kind is None else 'stopped'}")

    def say(self, text: str) -> None:
        """Prints text on a line of its own."""
        self.console.print(text, markup=False, emoji=False)

    def start(self, images: int, done: int) -> None:
        """Begins the next run; the run before it counts as done.

        Args:
          images: images of all epochs of this run.
          done: how many of them an earlier session trained.
        """
        self._before, self._planned = self._before + self._planned, images
        self._done = self._before + done
        if self._bar is not None:  # update() would count earlier sessions' images in the speed.
            self._bar.tasks[self._task].completed = self._done

    def reach(self, images: int, run: str, place: str, rate: float) -> None:
        """Notes how far the run is; a rollback moves it back.

        Args:
          images: images of this run that have been trained so far.
          run: the name of the run.
          place: where the run is, such as its epoch.
          rate: in images/s, 0 while unknown.
        """
        self._done, self._worked = self._before + images, True
        if self._bar is not None:
            shown = f"{rate:,.0f} images/s" if rate else ""
            self._bar.update(self._task, completed=self._done, run=run, place=place, rate=shown)
        else:
            self._line(run, place, rate, "", _SILENCE)

    def news(self, run: str, place: str, rate: float, values: dict[str, Any]) -> None:
        """Shows the accuracies of an evaluation.

        Args:
          run: the name of the run.
          place: where the run is, such as its epoch.
          rate: in images/s, 0 while unknown.
          values: the results of the evaluation; ``accuracy`` has one fraction per student.
        """
        text = "val " + accuracies(values["accuracy"])
        if self._bar is not None:
            self._bar.update(self._task, news=text)
        else:
            self._line(run, place, rate, text, _SPACING)

    def _line(self, run: str, place: str, rate: float, text: str, spacing: float) -> None:
        """Prints a line unless the last one is less than ``spacing`` seconds old."""
        if time.monotonic() - self._printed >= spacing:
            self._printed = time.monotonic()
            speed = f"{rate:,.0f} images/s" if rate else "compiled"
            self.say(f"{self._percent()}  {run} {place}  {speed}  {text}".rstrip())

    def _percent(self) -> str:
        """Returns the percentage done, rounded down: 100 % only when everything is trained."""
        return f"{100 * self._done // self._total:3d}%"


def accuracies(values: Sequence[float]) -> str:
    """Returns fractions as percentages with one decimal."""
    return " ".join(f"{100 * value:.1f}" for value in values) + " %"

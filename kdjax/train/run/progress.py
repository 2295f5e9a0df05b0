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
    time left. Elsewhere lines are printed, seconds apart, and one at the end.
    """

    def __init__(
        self,
        total_images: int,
        console: Console | None = None,
        *,
        bar: bool = True,
        silent: bool = False,
    ):
        """Starts at none of ``total_images``, those of all epochs of all runs.

        Args:
          total_images: above 0.
          console: where to; default: standard output.
          bar: whether a terminal gets a bar.
          silent: nothing is shown, as another process shows it.
        """
        # Names of files and sets are printed as they are: no markup, no emoji.
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
        """Prints a line of its own."""
        self.console.print(text, markup=False, emoji=False)

    def start(self, images: int, done: int) -> None:
        """Begins the next run; the one before it is behind us.

        Args:
          images: of all epochs of this run.
          done: how many of them an earlier session trained.
        """
        self._before, self._planned = self._before + self._planned, images
        self._done = self._before + done
        if self._bar is not None:  # Not through update(): what was there took no time.
            self._bar.tasks[self._task].completed = self._done

    def reach(self, images: int, run: str, place: str, rate: float) -> None:
        """Notes how far the run is; after a rollback it is less far than before.

        Args:
          images: trained up to here, of those of this run.
          run: its name.
          place: such as an epoch.
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
          run: its name.
          place: such as an epoch.
          rate: in images/s, 0 while unknown.
          values: of the evaluation; ``accuracy`` has one fraction per student.
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
        """Rounded down: 100 % is when everything is trained."""
        return f"{100 * self._done // self._total:3d}%"


def accuracies(values: Sequence[float]) -> str:
    """Percentages with one decimal."""
    return " ".join(f"{100 * value:.1f}" for value in values) + " %"

"""What all runs of a task share: the workdir, the metrics, the progress and the signals."""

import contextlib
from pathlib import Path

import ml_collections

from kdjax.train.devices import processes
from kdjax.train.run.checkpoint import Checkpoints
from kdjax.train.run.interrupt import Interrupts
from kdjax.train.run.metrics import MetricsWriter
from kdjax.train.run.progress import ProgressReport


class Workspace:
    """A workdir while a task uses it; only the first process writes and shows anything.

    Attributes:
      path: the workdir.
      writer: writes the metrics.
      progress: shows the progress of all runs together.
      interrupts: signals that ask to stop.
    """

    def __init__(
        self, path: Path, log: ml_collections.ConfigDict, images: int, stack: contextlib.ExitStack
    ):
        """Opens what the runs use.

        Args:
          path: the workdir, already claimed.
          log: the ``log`` section of the configuration.
          images: images of all epochs of all runs.
          stack: closes everything that is opened here.
        """
        self.path = path
        self._stack = stack
        self._writes = processes.is_first()
        self.writer = MetricsWriter(path, tensorboard=log.tensorboard, writes=self._writes)
        stack.callback(self.writer.close)
        self.interrupts = stack.enter_context(Interrupts())
        self.progress = stack.enter_context(
            ProgressReport(images, bar=log.progress, silent=not self._writes)
        )

    def checkpoints(self, run: str, keep: int) -> Checkpoints:
        """Opens the checkpoints of a run.

        Args:
          run: the name of the run.
          keep: how many of the latest steps are kept.
        """
        found = Checkpoints(self.path / "checkpoints" / run, keep, writes=self._writes)
        self._stack.callback(found.close)
        return found

"""TensorBoard events, written in the caller's own thread.

tensorboardX's SummaryWriter passes events to a background thread. A full disk ends that thread, and
the next write then waits for it forever. The synchronous EventsWriter raises an error instead.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """The events of one run, in a separate file under ``directory``."""

    def __init__(self, directory: Path, purge_step: int):
        """Opens a new file; TensorBoard hides events of older files from ``purge_step`` on.

        Raises:
          OSError: if the file cannot be written.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        directory.mkdir(parents=True, exist_ok=True)
        suffix = f".{os.getpid()}.{time.monotonic_ns()}"
        self._event = event_pb2.Event
        self._writer = EventsWriter(str(directory / "events"), suffix)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=purge_step, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one number for each tag.

        Raises:
          OSError: if they cannot be written.
        """
        from tensorboardX.summary import scalar

        for tag, value in values.items():
            self._write(step=step, summary=scalar(tag, value))
        self._writer.flush()

    def _write(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))

    def close(self) -> None:
        """Closes the file.

        Raises:
          OSError: if the rest of the file cannot be written.
        """
        self._writer.close()

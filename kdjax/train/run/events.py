"""TensorBoard events, written by the caller itself.

tensorboardX's SummaryWriter hands events to a thread, which a full disk ends; whoever writes next
then waits for it forever. Its synchronous half raises instead.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """The events of one run, in a file of their own under ``directory``."""

    def __init__(self, directory: Path, purge_step: int):
        """Opens a new file; TensorBoard hides what older files have from ``purge_step`` on.

        Raises:
          OSError: if it cannot be written.
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
        """Writes numbers by tag.

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
          OSError: if its end cannot be written.
        """
        self._writer.close()

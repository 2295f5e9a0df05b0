"""Ctrl-C and SIGTERM: noted when they arrive, obeyed between two dispatches."""

import signal
import types


class Interrupted(Exception):
    """Training was asked to stop.

    Attributes:
      signal_name: the name of the signal.
      saved: whether the state at which the run stopped is saved.
    """

    def __init__(self, signal_name: str, run: str, step: int, saved: int | None):
        """Describes where a run stopped.

        Args:
          signal_name: the name of the signal.
          run: the name of the run.
          step: the step at which it stopped.
          saved: the step of its last checkpoint; None if there is none.
        """
        self.signal_name, self.saved = signal_name, saved == step
        if self.saved:
            place = f"is saved at step {step}"
        elif saved is None:
            place = f"could not be saved at step {step}, and is still at step 0"
        else:
            place = f"could not be saved at step {step}; its last checkpoint is of step {saved}"
        super().__init__(f"{signal_name}: {run} {place}")


class Interrupts:
    """Catches SIGINT and SIGTERM inside a ``with`` block; a later SIGINT stops at once.

    Attributes:
      received: the number of the first signal; 0: there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # Outside the main thread, the caller handles signals.
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

"""Ctrl-C and SIGTERM: noted when they arrive, obeyed between two dispatches."""

import signal
import types

_NAMES = ("", "SIGINT", "SIGTERM")


class Interrupted(Exception):
    """Training was asked to stop; everything up to ``step`` is saved."""

    def __init__(self, signal_name: str, run: str, step: int):
        super().__init__(f"{signal_name}: {run} is saved at step {step}")
        self.signal_name = signal_name


class Interrupts:
    """Catches SIGINT and SIGTERM inside a ``with`` block; a later SIGINT stops at once.

    Attributes:
      received: the name of the first signal, or empty.
    """

    def __init__(self) -> None:
        self.received = ""
        self._previous: dict[int, object] = {}

    @property
    def code(self) -> int:
        """:attr:`received` as a number that processes can compare."""
        return _NAMES.index(self.received)

    @staticmethod
    def name(code: int) -> str:
        """Returns the name of the signal with this :attr:`code`."""
        return _NAMES[code]

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
        self.received = signal.Signals(number).name

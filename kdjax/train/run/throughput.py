"""How fast a run trains."""

from collections.abc import Hashable


class Throughput:
    """Images per second of training alone, without the time in which programs are compiled."""

    def __init__(self) -> None:
        self._started: set[Hashable] = set()
        self._compiled = False
        self._images = 0
        self._seconds = 0.0

    def start(self, program: Hashable) -> None:
        """Notes that a dispatch has been started.

        Args:
          program: says which program it runs. The first dispatch of a program compiles it.
        """
        self._compiled |= program not in self._started
        self._started.add(program)

    def add(self, images: int, seconds: float) -> None:
        """Counts a dispatch, unless a program was compiled in the meantime.

        Args:
          images: images that were trained in this dispatch.
          seconds: the time from the previous dispatch's metrics to the metrics of this one.
        """
        if not self._compiled:
            self._images += images
            self._seconds += seconds
        self._compiled = False

    @property
    def images_per_second(self) -> float:
        """The mean over all dispatches that count; 0 while unknown."""
        return self._images / self._seconds if self._seconds else 0.0

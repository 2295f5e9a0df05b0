"""How fast a run trains."""


class Throughput:
    """Images per second of training alone, without the first dispatch, which compiles."""

    def __init__(self) -> None:
        self._compiled = False
        self._images = 0
        self._seconds = 0.0

    def add(self, images: int, seconds: float) -> None:
        """Counts a dispatch.

        Args:
          images: images that were trained in this dispatch.
          seconds: the time from the previous dispatch's metrics to the metrics of this one.
        """
        if self._compiled:
            self._images += images
            self._seconds += seconds
        self._compiled = True

    @property
    def images_per_second(self) -> float:
        """The mean over all dispatches; 0 while unknown."""
        return self._images / self._seconds if self._seconds else 0.0

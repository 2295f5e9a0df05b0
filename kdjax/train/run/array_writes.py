"""Makes Orbax fail cleanly when it cannot write an array.

Orbax writes all arrays of a checkpoint at the same time. If one write fails, Orbax closes the event
loop that the other writes report to. Each of these then prints a traceback: hundreds of lines
without information.
"""

import asyncio
import logging
from typing import Any

import numpy as np
import orbax.checkpoint as ocp


class PatientHandler(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of host arrays; a failed write waits for the other writes, then raises."""

    async def _background_serialize(self, *args: Any, **more: Any) -> None:
        try:
            await super()._background_serialize(*args, **more)
        except Exception:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)
            raise


def register() -> None:
    """Makes Orbax use :class:`PatientHandler` for host arrays in this process."""
    if not isinstance(ocp.type_handlers.get_type_handler(np.ndarray), PatientHandler):
        logger = logging.getLogger("absl")
        before = logger.level
        logger.setLevel(logging.ERROR)  # Hides the warning that a handler is replaced.
        try:
            ocp.type_handlers.register_type_handler(np.ndarray, PatientHandler(), override=True)
        finally:
            logger.setLevel(before)

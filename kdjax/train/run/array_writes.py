"""How Orbax writes arrays, with order when one of them cannot be written.

Orbax writes all arrays of a checkpoint at once and, when one fails, closes the event loop that the
others report to: each of them then prints a traceback, hundreds of lines that say nothing.
"""

import asyncio
import logging
from typing import Any

import numpy as np
import orbax.checkpoint as ocp


class PatientHandler(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of host arrays; a failed write waits for those that are under way."""

    async def _background_serialize(self, *args: Any, **more: Any) -> None:
        try:
            await super()._background_serialize(*args, **more)
        except Exception:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)
            raise


def register() -> None:
    """Makes Orbax write host arrays so, in this process."""
    if not isinstance(ocp.type_handlers.get_type_handler(np.ndarray), PatientHandler):
        logger = logging.getLogger("absl")
        before = logger.level
        logger.setLevel(logging.ERROR)  # That a handler is replaced is meant.
        try:
            ocp.type_handlers.register_type_handler(np.ndarray, PatientHandler(), override=True)
        finally:
            logger.setLevel(before)

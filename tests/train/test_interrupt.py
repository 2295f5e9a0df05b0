"""Signals: the first one decides how a run ends."""

import os
import signal

import pytest

from kdjax.train.run.interrupt import Interrupts


def test_the_first_signal_is_kept_and_a_second_ctrl_c_stops_at_once():
    with Interrupts() as interrupts:
        assert not interrupts.received
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

"""Signals that stop a long job."""

import os
import signal

import pytest

from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.processes import stop_on_signals


def test_the_second_signal_ends_the_program_unless_it_is_patient(caplog):
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals("the trial is saved", patient=True) as stop:
        assert not stop.is_set()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_signal_ends_without_a_traceback(capsys):
    def run():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        exit_on_user_error(run)
    assert "ended at once. What is finished is kept" in capsys.readouterr().err

"""A wish to stop, and what a second signal means."""

import os
import signal

import pytest

from clickprompt.errors import StoppedError
from clickprompt.runtime.train import stopping


def test_the_same_signal_twice_in_a_moment_is_one_wish_and_a_later_one_the_end(monkeypatch, capsys):
    """timeout(1) sends SIGTERM to the command and then to the command's group."""
    before = signal.getsignal(signal.SIGTERM)
    with stopping.stop_signals() as came:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
        assert capsys.readouterr().err.count("stopping after this step") == 1
        with pytest.raises(StoppedError, match="stopped at once"):
            os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(stopping, "_TWICE", 0.0)
        with pytest.raises(StoppedError, match="stopped at once"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before

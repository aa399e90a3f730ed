"""Ctrl-C and SIGTERM (a job's stop, Kubernetes, a batch system) as a wish to stop, not as the end."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from clickprompt.errors import StoppedError
from clickprompt.io.progress import say

__all__ = ["stop_signals"]

# seconds in which a signal that comes again is the same wish: timeout(1) sends to the command and then to its
# group
_TWICE = 1.0


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals that have come so far: none or one, for a later one raises StoppedError in the main thread
    at once.

    Outside the main thread (a trial of Tune's) signals are somebody else's.
    """
    came: list[int] = []
    first = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: Any) -> None:
        nonlocal first
        if came and number == came[0] and time.monotonic() - first < _TWICE:
            return
        if came:
            raise StoppedError(
                "stopped at once; the same command continues from the newest complete checkpoint", number
            )
        first = time.monotonic()
        came.append(number)
        say(
            f"{signal.Signals(number).name}: stopping after this step, once a checkpoint is written; "
            "another one ends at once"
        )

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Ctrl-C and SIGTERM (a job's stop, Kubernetes, a batch system) as a wish to stop, not as the end."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from clickprompt.errors import StoppedError
from clickprompt.progress import say

__all__ = ["stop_signals"]


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals that have come so far: none or one, for a second one raises StoppedError in the main thread at once.

    Outside the main thread (a trial of Tune's) signals are somebody else's.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: Any) -> None:
        if came:
            raise StoppedError("stopped at once; the same command continues from the newest complete checkpoint", number)
        came.append(number)
        say(f"{signal.Signals(number).name}: stopping after this step, once a checkpoint is written; another one ends at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

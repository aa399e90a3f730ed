"""Turn Ctrl-C and SIGTERM (from a job's stop, Kubernetes or a batch system) into a request to stop."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from clickprompt.errors import StoppedError
from clickprompt.io.progress import say

__all__ = ["stop_signals"]

# Seconds within which a repeated signal counts as the same request: timeout(1) signals the command and then
# its group
_TWICE = 1.0


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield the list of signals received so far: none or one, as a second one raises StoppedError at once, in
    the main thread.

    Outside the main thread (as in a Tune trial) signals are left to others, and the list stays empty.
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

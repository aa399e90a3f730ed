"""Choose where a command works that doesn't train: in its own process, or on Ray if there is much to do."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from clickprompt.config import RuntimeConfig
from clickprompt.io.progress import say
from clickprompt.runtime.in_process import in_process, say_why_ray

__all__ = ["here", "terminated_in_order"]


def here(runtime: RuntimeConfig, amount: int, most: int, of_what: str) -> bool:
    """Return whether to work in this process.

    With runtime.use_ray=auto that is up to `most` of an amount of work, and no setting may need Ray. Prints
    why it is Ray. With never it is any amount.

    Raises ConfigError if Ray is needed and runtime.use_ray forbids it.
    """
    if in_process(runtime, training=False):
        if amount <= most or runtime.use_ray == "never":
            return True
        say(f"on Ray: {amount:,} {of_what}")
    else:
        say_why_ray(runtime, training=False)
    return False


@contextlib.contextmanager
def terminated_in_order() -> Iterator[None]:
    """Let SIGTERM end this process by SystemExit, so that it deletes what is half-written, as a driver of Ray
    does.

    Outside the main thread signals are left to others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        sys.exit(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

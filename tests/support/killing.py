"""SIGKILL of an actor in the middle of its work."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import psutil


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):  # it has just ended
        return "".join(process.cmdline())
    return ""


@contextlib.contextmanager
def one_actor_killed(name: str, when: Callable[[], bool], still: Callable[[], bool]) -> Iterator[None]:
    """One whose process is named `name` is killed once `when`; it was in the middle if `still` after that."""
    killed, over = [], threading.Event()

    def kill():
        while not over.wait(0.002):
            if when() and (
                actors := [
                    child for child in psutil.Process().children(recursive=True) if name in title(child)
                ]
            ):
                newest = max(
                    actors, key=lambda actor: actor.create_time()
                )  # those of an earlier pool may still be ending
                os.kill(newest.pid, signal.SIGKILL)
                killed.append(still())
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
    assert killed == [True], "nothing was killed, or too late"

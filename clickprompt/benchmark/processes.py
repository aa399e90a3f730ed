"""Find the processes that a process has started, and whether they still run, from /proc (Linux)."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable

__all__ = ["Process", "below", "end", "gone_within", "title"]

Process = tuple[int, int]
"""pid and its start time, in ticks since the machine started, because pids are used again"""

_PAUSE = 0.05  # seconds


def below(pid: int) -> list[Process]:
    """Return all running descendants of `pid`."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(int(name)))}
    children: dict[int, list[int]] = {}
    for child, (parent, _) in stats.items():
        children.setdefault(parent, []).append(child)
    tree = list(children.get(pid, []))
    for process in tree:  # grows while it is walked
        tree += children.get(process, [])
    return [(process, stats[process][1]) for process in tree]


def gone_within(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Wait until none of them runs any more. Return those that still run after so many seconds."""
    left, until = list(processes), time.monotonic() + seconds
    while (left := [process for process in left if _runs(process)]) and time.monotonic() < until:
        time.sleep(_PAUSE)
    return left


def end(processes: Iterable[Process]) -> None:
    """Send SIGKILL."""
    for process in processes:
        if _runs(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process[0], signal.SIGKILL)


def title(process: Process) -> str:
    """Return its command line's first word, which Ray's workers set to what they are doing; empty if it has
    ended.
    """
    try:
        with open(f"/proc/{process[0]}/cmdline") as stream:
            return stream.read().partition("\0")[0]
    except OSError:
        return ""


def _runs(process: Process) -> bool:
    stat = _stat(process[0])
    return stat is not None and stat[1] == process[1]


def _stat(pid: int) -> tuple[int, int] | None:
    """Return (parent, start); None if it has ended, even if its status hasn't been collected yet."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))

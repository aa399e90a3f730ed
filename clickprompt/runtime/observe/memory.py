"""Read the memory and CPU time of a process and all its descendants from /proc (Linux).

An embedded Ray is a descendant of its driver.
"""

import os
from dataclasses import dataclass

__all__ = ["Usage", "memory_of", "peak_memory", "usage_below"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """The usage of all processes together."""

    memory: int
    """bytes; a page that several processes share counts once"""
    object_store: int
    """the part of these bytes in shared memory: what Ray's object store has touched so far"""
    cpu_seconds: float
    """time spent so far, including processes that have ended"""


def peak_memory() -> int:
    """Return this process's peak memory in bytes: its own, its libraries', and what it read from the object
    store.
    """
    with open("/proc/self/status") as stream:
        sizes = dict(line.split(":", 1) for line in stream)
    return int(sizes["VmHWM"].split()[0]) * 1024


def usage_below(pid: int) -> Usage:
    """Return the usage of `pid` and its descendants."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(name))}
    children: dict[int, list[int]] = {}
    for child, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(child)
    tree = [pid]
    for process in tree:  # grows while it is walked
        tree += children.get(process, [])
    rollups = [memory_of(process) for process in tree]
    ticks = sum(int(value) for process in tree if process in stats for value in stats[process][11:15])
    memory, shared = (sum(one.get(name, 0) for one in rollups) for name in ("Pss", "Pss_Shmem"))
    return Usage(memory, shared, ticks / _TICKS)


def _stat(pid: str) -> list[str] | None:
    """Read /proc/PID/stat from the state on: [1] is the parent, [11:15] are the CPU times of the process and
    its dead children.
    """
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return None


def memory_of(pid: int) -> dict[str, int]:
    """Return a process's pages in bytes by the kernel's names: Pss (its share of all), Pss_Shmem (of those in
    shared memory), Anonymous; nothing if it has just ended or has no memory of its own.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup") as stream:
            pairs = [line.partition(":") for line in list(stream)[1:]]
    except OSError:
        return {}
    return {name: int(value.split()[0]) * 1024 for name, _, value in pairs}

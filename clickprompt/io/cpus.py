"""Count the cores that this process may use, which in a container can be fewer than the machine has, and the
threads for each worker.
"""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cores", "worker_threads"]


def usable_cores(root: str = "/") -> int:
    """Return the smaller of two numbers, at least 1: the cores that the scheduler lets this process run on
    (cpuset, taskset), and the quota of its cgroups, rounded down.

    Rounded down because threads beyond a quota are stopped for the rest of each period.

    root: where proc/self/cgroup and sys/fs/cgroup are looked for.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([float(allowed), *_quotas(Path(root))])))


def worker_threads(workers: int, cpus_per_worker: float, *, shared: bool, cores: int | None = None) -> int:
    """Return the threads for one of `workers` processes that compute on the same `cores` (default: those of
    this process); at least 1.

    shared: others use the cores too (a cluster), so a worker keeps to the CPUs that Ray has set aside for it.
    The logical CPUs of an embedded Ray are only a count: there `cpus_per_worker` is a limit from 2 up, and
    its default, 1, is none.
    """
    share = (usable_cores() if cores is None else cores) // max(workers, 1)
    limit = int(cpus_per_worker)
    return max(1, min(share, limit) if shared or limit > 1 else share)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores of each quota on the cgroups of this process, the outer cgroups included."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _folders(mounts, path):
                yield from _quota(*[*_words(folder / "cpu.max"), "", ""][:2])
        elif "cpu" in controllers.split(","):
            for folder in _folders(
                mounts / controllers if (mounts / controllers).is_dir() else mounts / "cpu", path
            ):
                yield from _quota(
                    *(" ".join(_words(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
                )


def _folders(mount: Path, path: str) -> list[Path]:
    """Return the folders of the cgroup and of those above it.

    In a container the cgroup may be the mount itself, whatever the path says (the path is the machine's).
    """
    below = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*below[:depth]) for depth in range(len(below), -1, -1)]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _quota(quota: str, period: str) -> Iterator[float]:
    """Yield nothing if there is no limit: "max", -1, or no such file."""
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        yield int(quota) / int(period)

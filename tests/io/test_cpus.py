"""Cores and threads: what a cgroup, a cpuset, a worker's CPUs and its neighbours leave, whatever the machine
has.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clickprompt.io.cpus import usable_cores, worker_threads

ROOT = Path(__file__).parents[2]
ALLOWED = len(os.sched_getaffinity(0))
ASKED = "from clickprompt.io.cpus import usable_cores; print(usable_cores())"


def tree(root: Path, cgroup: str, **quotas: str) -> str:
    """A made-up root: what /proc/self/cgroup says, and files below /sys/fs/cgroup ("/" written as "__")."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in quotas.items():
        file = (
            root
            / "sys/fs/cgroup"
            / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return str(root)


@pytest.fixture
def many_cores(monkeypatch):
    """A large machine, so that it is the quota which decides."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


@pytest.mark.parametrize(
    ("cgroup", "quotas", "cores"),
    [
        ("0::/\n", {"cpu_max": "300000 100000"}, 3),  # version 2, in a container
        ("0::/\n", {"cpu_max": "250000 100000"}, 2),
        ("0::/\n", {"cpu_max": "50000 100000"}, 1),
        ("0::/\n", {"cpu_max": "max 100000"}, 64),
        ("0::/\n", {}, 64),
        (
            "0::/pod/box\n",
            {"pod__box__cpu_max": "max 100000", "pod__cpu_max": "500000 100000"},
            5,
        ),  # an outer one's
        ("0::/pod/box\n", {"pod__box__cpu_max": "200000 100000", "pod__cpu_max": "500000 100000"}, 2),
        ("0::/docker/1f\n", {"cpu_max": "400000 100000"}, 4),  # the machine's path, the container's mount
        ("0::/../other\n", {"cpu_max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct__a__cfs_quota_us": "700000", "cpu,cpuacct__a__cfs_period_us": "100000"},
            7,
        ),
        ("4:cpu,cpuacct:/docker/1f\n", {"cpu__cfs_quota_us": "150000", "cpu__cfs_period_us": "50000"}, 3),
        ("1:cpu:/\n", {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 64),
        (
            "3:cpuset:/\n2:cpuacct:/\n",
            {"cpuset__cfs_quota_us": "100000", "cpuset__cfs_period_us": "100000"},
            64,
        ),  # not the CPU's
        ("0::/\n", {"cpu_max": "nonsense"}, 64),
    ],
)
def test_a_quota_decides(tmp_path, many_cores, cgroup, quotas, cores) -> None:
    assert usable_cores(tree(tmp_path, cgroup, **quotas)) == cores


def test_the_fewer_of_quota_and_cpuset(tmp_path) -> None:
    assert usable_cores(tree(tmp_path / "large", "0::/\n", cpu_max="99900000 100000")) == ALLOWED
    assert usable_cores(str(tmp_path / "nothing")) == ALLOWED


@pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset")
def test_taskset_decides() -> None:
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, sys.executable, "-c", ASKED]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout == "1\n"


@pytest.mark.parametrize(
    ("workers", "cpus", "shared", "cores", "threads"),
    [
        (1, 1, False, 8, 8),  # alone on its machine
        (2, 1, False, 8, 4),
        (3, 1, False, 8, 2),
        (16, 1, False, 8, 1),
        (1, 4, False, 8, 4),  # said so
        (4, 4, False, 8, 2),
        (2, 0.5, False, 8, 4),
        (1, 1, True, 64, 1),  # the others' cores stay theirs
        (1, 4, True, 64, 4),
        (1, 4, True, 2, 2),
        (2, 0.5, True, 8, 1),
    ],
)
def test_threads_of_a_worker(workers, cpus, shared, cores, threads) -> None:
    assert worker_threads(workers, cpus, shared=shared, cores=cores) == threads


def test_nothing_else_asks_for_the_machines_cores() -> None:
    files = [
        file
        for folder in ("clickprompt", "jobs")
        for file in (ROOT / folder).rglob("*.py")
        if file.name != "cpus.py"
    ]
    assert [str(file) for file in files if "cpu_count(" in file.read_text()] == []

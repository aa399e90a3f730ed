"""Clusters of a test's own: cluster/'s scripts on loopback, with token auth."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clickprompt.benchmark.processes import below, gone_within

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class LocalCluster:
    """`process` is the script's, `environment` a client's; `jobs` and `ray` are the addresses of the job
    server and of Ray itself.
    """

    process: subprocess.Popen
    jobs: str
    ray: str
    environment: dict[str, str]

    def clickprompt(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.python("-c", "from clickprompt.cli.main import main; main()", *arguments)

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=500, check=False
        )


@contextmanager
def local_cluster(
    command: list[str],
    host: str,
    folder: Path,
    ready: str = "",
    addresses: tuple[str, str] | None = None,
    **settings: str,
) -> Iterator[LocalCluster]:
    """Until its job server answers and its output has `ready`; everything it started is gone afterwards.

    addresses: of its job server and of Ray, if the script takes no ports.
    """
    token, log = folder / "token", folder / "cluster.log"
    token.write_text("0123456789abcdef" * 4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    port, dashboard = free_port(), free_port()
    settings |= {"PORT": str(port), "DASHBOARD_PORT": str(dashboard)}
    with open(log, "w") as output:
        bash = ["bash", os.path.join(ROOT, command[0]), *command[1:]]
        process = subprocess.Popen(
            bash, env=environment | settings, stdout=output, stderr=output, start_new_session=True
        )
    try:
        jobs, ray = addresses or (f"http://127.0.0.1:{dashboard}", f"{host}:{port}")
        cluster = LocalCluster(process, jobs, ray, environment)
        until = time.monotonic() + 300
        while not (_answers(cluster.jobs) and ready in log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        yield cluster
    finally:
        if process.poll() is None:
            started = below(process.pid)
            process.terminate()
            process.wait(timeout=60)
            for pid, _ in gone_within(started, 20):
                os.kill(pid, signal.SIGKILL)


def _answers(jobs: str) -> bool:
    try:
        urllib.request.urlopen(f"{jobs}/api/version", timeout=2)
    except urllib.error.HTTPError:
        return True  # it asks for a token
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

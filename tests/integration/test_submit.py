"""jobs/pretrain.py by the Ray Jobs API, against a head that cluster/local.sh has started on loopback with token auth."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from clickprompt import storage
from clickprompt.config import dump_config
from tests.tiny import tiny_config, write_both

pytestmark = pytest.mark.slow
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(tmp_path):
    """(address of the job server, environment of a client) of a cluster that ends with the test."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    dashboard = free_port()
    command = ["bash", os.path.join(ROOT, "cluster", "local.sh")]
    log = open(tmp_path / "head.log", "w")  # noqa: SIM115 - the process's, for as long as it lives
    ports = {"PORT": str(free_port()), "DASHBOARD_PORT": str(dashboard), "CPUS": "4"}
    process = subprocess.Popen(command, env=environment | ports, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(address, process, tmp_path / "head.log")
        yield address, environment
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def wait_for(address: str, process: subprocess.Popen, log) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
            return
        except urllib.error.HTTPError:  # it answers, and asks for a token
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def submit(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from clickprompt.cli import main; main()", "submit", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_pretraining_is_submitted_to_a_cluster(head, tmp_path):
    address, environment = head
    dataset, plm = write_both(str(tmp_path))
    config, run = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    storage.write_bytes(config, dump_config(tiny_config(dataset.uri, plm, pretrain__max_steps=6)).encode())

    done = submit(["pretrain", "--address", address, "--json", "--config", config, "--run", run], environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "SUCCEEDED"
    assert storage.read_json(os.path.join(run, "result.json"))["step"] == 6
    assert os.path.exists(os.path.join(run, "export", "model.safetensors"))

    bad = submit(["pretrain", "--address", address, "--config", config, "--run", run, "--set", "prompt.num_prompts=-1"], environment)
    assert bad.returncode == 1
    assert "prompt.num_prompts=-1" in bad.stderr

    refused = submit(["pretrain", "--address", address], {**environment, "RAY_AUTH_TOKEN": "f" * 64})
    assert refused.returncode == 2, refused.stderr
    assert "--address" in refused.stderr

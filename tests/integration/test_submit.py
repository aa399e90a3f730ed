"""Jobs by the Ray Jobs API, against a head that cluster/local.sh has started on loopback with token auth."""

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
from clickprompt.runtime.submit import pinned_requirements
from clickprompt.training.checkpoint import load_state, newest_complete
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


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from clickprompt.cli import main; main()", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def lines(path: str) -> list[str]:
    return storage.read_bytes(path).decode().splitlines() if os.path.exists(path) else []


def test_a_job_from_submission_to_its_end(head, tmp_path):
    address, environment = head
    dataset, plm = write_both(str(tmp_path))
    config, folder = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    storage.write_bytes(config, dump_config(tiny_config(dataset.uri, plm, pretrain__max_steps=6)).encode())
    pretrain = ["--config", config, "--run", folder]

    done = run(["submit", "pretrain", "--address", address, "--id", "first", "--wait", "--json", *pretrain], environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"job_id": "first", "status": "SUCCEEDED", "exit_code": 0, "address": address}
    assert "6 of 6 steps" in done.stderr  # the job's log
    assert storage.read_json(os.path.join(folder, "result.json"))["step"] == 6
    assert os.path.exists(os.path.join(folder, "export", "model.safetensors"))

    again = run(["submit", "pretrain", "--address", address, "--id", "first", *pretrain], environment)
    assert again.returncode == 2
    assert "--id first" in again.stderr

    bad = run(["submit", "pretrain", "--address", address, "--id", "bad", *pretrain, "--set", "prompt.num_prompts=-1"], environment)
    assert bad.returncode == 2, bad.stderr  # the job's own status
    assert "prompt.num_prompts=-1" in bad.stderr
    assert "Traceback" not in bad.stderr

    listed = json.loads(run(["job", "list", "--address", address, "--json"], environment).stdout)["jobs"]
    assert [(job["job_id"], job["status"], job["exit_code"], job["job"], job["run"]) for job in listed] == [
        ("bad", "FAILED", 2, "pretrain", folder),
        ("first", "SUCCEEDED", 0, "pretrain", folder),
    ]
    assert "6 of 6 steps" in run(["job", "logs", "first", "--address", address], environment).stdout
    unknown = run(["job", "status", "second", "--address", address], environment)
    assert (unknown.returncode, "second" in unknown.stderr) == (2, True)


def test_a_job_that_is_stopped_leaves_a_run_that_continues(head, tmp_path):
    address, environment = head
    dataset, plm = write_both(str(tmp_path))
    config, folder = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    settings = tiny_config(dataset.uri, plm, pretrain__max_steps=400, pretrain__epochs=400, pretrain__checkpoint_every=50)
    storage.write_bytes(config, dump_config(settings).encode())
    command = ["submit", "pretrain", "--address", address, "--config", config, "--run", folder, "--json"]

    started = run([*command, "--id", "stopped", "--no-wait"], environment)
    assert (started.returncode, json.loads(started.stdout)["status"]) == (0, "SUBMITTED")
    metrics = os.path.join(folder, "metrics.jsonl")
    until = time.monotonic() + 120
    while not lines(metrics):  # with the first checkpoint
        assert time.monotonic() < until
        time.sleep(0.2)
    stopped = run(["job", "stop", "stopped", "--address", address, "--json"], environment)
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout)["status"] == "STOPPED"
    before = load_state(newest_complete(os.path.join(folder, "checkpoints"))).step
    assert 50 <= before < 400
    assert not os.path.exists(os.path.join(folder, "result.json"))

    done = run([*command, "--id", "continued"], environment)
    assert done.returncode == 0, done.stderr
    assert storage.read_json(os.path.join(folder, "result.json"))["step"] == 400
    assert [json.loads(line)["step"] for line in lines(metrics)] == list(range(1, 401))


def test_a_wrong_token_and_a_head_that_is_not_there(head):
    address, environment = head
    without = {key: value for key, value in environment.items() if not key.startswith("RAY_AUTH")}
    for clients in ({**environment, "RAY_AUTH_TOKEN": "f" * 64}, without):
        refused = run(["submit", "pretrain", "--address", address], clients)
        assert refused.returncode == 2, refused.stderr
        assert "token" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
    nobody = run(["job", "list", "--address", f"http://127.0.0.1:{free_port()}"], environment)
    assert nobody.returncode == 2
    assert len(nobody.stderr.splitlines()) == 1, nobody.stderr


def test_what_a_cluster_without_the_package_needs():
    pins = dict(line.split("==") for line in pinned_requirements())
    assert {"torch", "ray", "deepspeed", "transformers", "pyarrow", "aiohttp"} <= pins.keys()  # aiohttp: of ray[default]
    assert pins["torch"] == "2.13.0"
    assert not {"pytest", "ruff", "moto", "clickprompt"} & pins.keys()

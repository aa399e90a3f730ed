"""The commands of docs/cluster.md for several nodes on one machine: a head without CPUs, two nodes of their own addresses and labels."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clickprompt import storage
from clickprompt.config import dump_config
from clickprompt.runtime.processes import below, gone_within
from tests.integration.test_submit import ROOT, free_port, wait_for
from tests.tiny import tiny_config, write_both

pytestmark = pytest.mark.slow

SECTION = Path(ROOT, "docs", "cluster.md").read_text().partition("## One machine, several nodes")[2]
START, EXPORT, SUBMIT = re.findall(r"^    (.+)$", SECTION, re.MULTILINE)[:3]
NODES = """
import json, ray
ray.init(address="{}", logging_level="ERROR")
alive = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps([[n["NodeManagerAddress"], n["Resources"].get("CPU", 0), n["Labels"].get("clickprompt.io/group")] for n in alive]))
"""


@pytest.fixture
def nodes(tmp_path):
    """(process, address of the job server, address of Ray, environment of a client)."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    assert EXPORT.split() == ["export", "RAY_AUTH_MODE=token"]
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    port, dashboard = free_port(), free_port()
    script, *groups, last = shlex.split(START)
    assert (groups, last) == (["training:2", "data:2"], "&")
    command = ["bash", os.path.join(ROOT, script), *groups]
    with open(tmp_path / "nodes.log", "w") as log:
        ports = {"PORT": str(port), "DASHBOARD_PORT": str(dashboard)}
        process = subprocess.Popen(command, env=environment | ports, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(address, process, tmp_path / "nodes.log")
        until = time.monotonic() + 120
        while "3 nodes, job server" not in (said := (tmp_path / "nodes.log").read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)
        yield process, address, f"127.0.0.2:{port}", environment
    finally:
        if process.poll() is None:
            started = below(process.pid)
            process.terminate()
            process.wait(timeout=60)
            for pid, _ in gone_within(started, 20):
                os.kill(pid, signal.SIGKILL)


def run(environment, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=500, check=False)


def test_a_job_on_several_nodes(nodes, tmp_path):
    process, address, ray_address, environment = nodes
    listed = run(environment, "-c", NODES.format(ray_address))
    assert listed.returncode == 0, listed.stderr
    assert sorted(json.loads(listed.stdout.splitlines()[-1])) == [
        ["127.0.0.2", 0, None],
        ["127.0.0.3", 2, "training"],
        ["127.0.0.4", 2, "data"],
    ]

    dataset, plm = write_both(str(tmp_path))
    config, folder = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    settings = tiny_config(dataset.uri, plm, pretrain__max_steps=6, runtime__num_workers=2)
    storage.write_bytes(config, dump_config(settings).encode())
    command, *arguments = shlex.split(SUBMIT)
    assert command == "clickprompt"
    for name, value in {"--address": address, "--config": config, "--run": folder}.items():
        arguments[arguments.index(name) + 1] = value
    done = run(environment, "-c", "from clickprompt.cli import main; main()", *arguments)
    assert done.returncode == 0, done.stderr
    assert storage.read_json(os.path.join(folder, "result.json"))["step"] == 6

    started = below(process.pid)
    assert len(started) > 10
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert gone_within(started, 20) == []

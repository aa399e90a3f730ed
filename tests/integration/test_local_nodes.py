"""The commands of docs/guide/cluster.md for several nodes on one machine: a head without CPUs, two nodes of
their own addresses and labels.
"""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from clickprompt.benchmark.processes import below, gone_within
from clickprompt.config import dump_config
from clickprompt.io import storage
from tests.support.clusters import ROOT
from tests.support.tiny import tiny_config, write_both

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECTION = Path(ROOT, "docs", "guide", "cluster.md").read_text().partition("## One machine, several nodes")[2]
START, EXPORT, SUBMIT = re.findall(r"^    (.+)$", SECTION, re.MULTILINE)[:3]
NODES = """
import json, ray
ray.init(address="{}", logging_level="ERROR")
alive = [node for node in ray.nodes() if node["Alive"]]
cpus = [node["Resources"].get("CPU", 0) for node in alive]
groups = [node["Labels"].get("clickprompt.io/group") for node in alive]
print(json.dumps(list(zip([node["NodeManagerAddress"] for node in alive], cpus, groups))))
"""


def test_a_job_on_several_nodes(nodes, tmp_path):
    script, *groups, last = shlex.split(START)
    assert (nodes.process.args, last) == (["bash", os.path.join(ROOT, script), *groups], "&")
    assert EXPORT.split() == ["export", "RAY_AUTH_MODE=token"]
    listed = nodes.python("-c", NODES.format(nodes.ray))
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
    for name, value in {"--address": nodes.jobs, "--config": config, "--run": folder}.items():
        arguments[arguments.index(name) + 1] = value
    done = nodes.clickprompt(*arguments)
    assert done.returncode == 0, done.stderr
    assert storage.read_json(os.path.join(folder, "result.json"))["step"] == 6

    started = below(nodes.process.pid)
    assert len(started) > 10
    nodes.process.send_signal(signal.SIGTERM)
    assert nodes.process.wait(timeout=60) == 143
    assert gone_within(started, 20) == []

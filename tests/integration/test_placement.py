"""Training workers, data tasks and evaluation actors on the nodes labelled for them: a finetuning on four
raylets on loopback.
"""

import os
import signal
import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks

from clickprompt.config import dump_config
from clickprompt.runtime.cluster.placement import GROUP_LABEL
from tests.support.clusters import free_port
from tests.support.tiny import tiny_config, write_both

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LOOPBACK = "127.0.0.2"


@pytest.fixture
def cluster():
    """A head without CPUs, and nodes of the groups training, training, data and none."""
    before = signal.getsignal(signal.SIGTERM)  # a node changes it
    port = free_port()
    head = {"node_ip_address": LOOPBACK, "num_cpus": 0, "include_dashboard": True, "dashboard_port": port}
    made = Cluster(initialize_head=True, head_node_args=head)
    groups: dict[str, list[str]] = {"training": [], "data": [], "": []}
    for group in ("training", "training", "data", ""):
        labels = {"labels": {GROUP_LABEL: group}} if group else {}
        groups[group].append(made.add_node(node_ip_address=LOOPBACK, num_cpus=2, **labels).node_id)
    yield made, groups, f"http://127.0.0.1:{port}"
    made.shutdown()
    signal.signal(signal.SIGTERM, before)


def finetune(cluster: Cluster, config: str, run: str, *settings: str) -> subprocess.CompletedProcess:
    overrides = [
        part for setting in (f"runtime.address={cluster.address}", *settings) for part in ("--set", setting)
    ]
    command = [
        sys.executable,
        "-c",
        "from clickprompt.cli.main import main; main()",
        "finetune",
        "--config",
        config,
        "--run",
        run,
        *overrides,
    ]
    # As the raylets, which have it of this process
    environment = {**os.environ, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_each_part_runs_on_its_group(cluster, tmp_path):
    made, groups, api = cluster
    dataset, plm = write_both(str(tmp_path))
    config = str(tmp_path / "run.yaml")
    settings = tiny_config(
        dataset.uri, plm, finetune__with_plm=False, finetune__max_steps=4, finetune__validate_every=2
    )
    with open(config, "w") as stream:
        stream.write(dump_config(settings))
    done = finetune(
        made, config, os.path.join(tmp_path, "run"), "runtime.num_workers=2", "runtime.evaluation_actors=1"
    )
    assert done.returncode == 0, done.stderr
    assert f"2 nodes labelled {GROUP_LABEL}=training" in done.stderr
    assert f"1 nodes labelled {GROUP_LABEL}=data" in done.stderr
    where = {}
    for actor in list_actors(address=api, limit=1000):
        where.setdefault(actor.class_name, set()).add(actor.node_id)
    assert where["RayTrainWorker"] <= set(groups["training"])
    assert where["Scorer"] == set(groups["data"])
    read = {
        task.node_id
        for task in list_tasks(address=api, limit=10_000)
        if "ReadBlocks" in task.name or "ChunkSource" in task.name
    }
    assert read == set(groups["data"])

    too_many = finetune(
        made, config, os.path.join(tmp_path, "other"), "runtime.num_workers=2", "runtime.cpus_per_worker=2.5"
    )
    assert too_many.returncode == 2, too_many.stderr
    assert f"nodes labelled {GROUP_LABEL}=training have 4" in too_many.stderr


def test_a_cluster_without_tokens_is_named_as_such(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    port = free_port()
    head = [
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--node-ip-address={LOOPBACK}",
        f"--port={port}",
        "--include-dashboard=false",
    ]
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    with open(tmp_path / "head.log", "w") as log:
        process = subprocess.Popen(
            [ray, *head], env=environment | {"RAY_AUTH_MODE": "disabled"}, stdout=log, stderr=log
        )
    try:
        dataset, plm = write_both(str(tmp_path))
        config = str(tmp_path / "run.yaml")
        with open(config, "w") as stream:
            stream.write(dump_config(tiny_config(dataset.uri, plm, finetune__with_plm=False)))
        command = [
            "finetune",
            "--config",
            config,
            "--run",
            str(tmp_path / "run"),
            "--set",
            f"runtime.address={LOOPBACK}:{port}",
        ]
        done = subprocess.run(
            [sys.executable, "-c", "from clickprompt.cli.main import main; main()", *command],
            env=environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert done.returncode == 1, done.stderr
    assert "RAY_AUTH_MODE=disabled" in done.stderr
    assert "Traceback" not in done.stderr

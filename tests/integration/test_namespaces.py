"""Nodes with a network between them (cluster/namespaces.sh): a training on them, and one whose node is cut
off and given back, come to the losses of a training in one process.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clickprompt.benchmark.faults.audit import audit, read_attempts
from clickprompt.benchmark.faults.commands import losses
from clickprompt.config import dump_config, replaced
from clickprompt.io import storage
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from tests.support.clusters import ROOT, LocalCluster, local_cluster
from tests.support.tiny import tiny_config, write_both

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")),
        reason="takes root, iproute2 and util-linux",
    ),
]
# A node counts as lost after some 10 s instead of a minute
SOON = {
    f"RAY_health_check_{key}": value
    for key, value in {"period_ms": "1000", "timeout_ms": "3000", "failure_threshold": "3"}.items()
}


@pytest.fixture
def apart(tmp_path) -> Iterator[LocalCluster]:
    ip = ["ip", "netns", "add", "clickprompt-try"]
    if subprocess.run(ip, capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no network namespaces")
    subprocess.run(["ip", "netns", "delete", "clickprompt-try"], check=True)
    with local_cluster(
        ["cluster/namespaces.sh", "training:1", "training:1", "data:2"],
        "",
        tmp_path,
        "4 nodes, job server",
        ("http://10.77.22.2:8265", "10.77.22.2:6379"),
        PYTHONPATH=str(ROOT),
        **SOON,
    ) as cluster:
        yield cluster
    assert (
        "clickprompt" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    )


def test_a_node_is_cut_off_and_given_back(apart, tmp_path):
    dataset, plm = write_both(str(tmp_path))
    config = tiny_config(dataset.uri, plm, pretrain__max_steps=30)
    run_training(replaced(config, {"runtime.use_ray": "never"}), "pretrain", str(tmp_path / "alone"))
    alone = losses(str(tmp_path / "alone"))
    order = check_training(config, "pretrain").order
    config = replaced(config, {"runtime.num_workers": 2, "runtime.address": "auto"})
    path = str(tmp_path / "run.yaml")
    storage.write_bytes(path, dump_config(config).encode())

    submit = ["submit", "pretrain", "--address", apart.jobs, "--config", path]
    submit += ["--entrypoint-label", "clickprompt.io/group=data", "--run", str(tmp_path / "whole")]
    done = apart.clickprompt(*submit)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(str(tmp_path / "whole")), alone, rtol=1e-6)

    folder = tmp_path / "struck"
    job = ["-m", "ray.scripts.scripts", "job", "submit", "--address", apart.jobs, "--submission-id", "struck"]
    witnessed = ["python", "-m", "tests.support.witnessed", path, "pretrain", str(folder), "12"]
    done = apart.python(*job, "--no-wait", "--", *witnessed)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(folder / "strikes" / "0.json", apart)
    subprocess.run(["ip", "link", "set", "clickprompt-1", "down"], check=True)
    (folder / "strikes" / "0.done").touch()
    time.sleep(30)  # the cut itself: long enough for SOON to count the node as lost
    subprocess.run(["ip", "link", "set", "clickprompt-1", "up"], check=True)
    wait_for(folder / "run" / "result.json", apart)

    attempts = read_attempts(str(folder / "consumed"))
    assert [attempt.start for attempt in attempts] == [0, 10]
    assert len({node for attempt in attempts for node in attempt.nodes}) == 3  # it came back as another
    assert audit(attempts, dataset, order).clean
    np.testing.assert_allclose(losses(str(folder / "run")), alone, rtol=1e-6)


def wait_for(path: Path, cluster: LocalCluster, seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            logs = cluster.clickprompt("job", "logs", "struck", "--address", cluster.jobs)
            raise AssertionError(f"{path} isn't there: {logs.stdout[-3000:]}{logs.stderr[-3000:]}")
        time.sleep(0.2)

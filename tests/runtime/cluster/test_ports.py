"""Every port of an embedded Ray and of its workers' process group is on loopback, and is one that
docs/guide/security.md explains. tests/integration/test_serve.py says the same of a server.
"""

import json
import os

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from clickprompt.runtime.train.process_group import ProcessGroup
from tests.support.listening import beyond_loopback, explained, listening

pytestmark = pytest.mark.ray


def _in_a_worker(config):
    import torch
    from torch import distributed as dist

    both = torch.ones(1)
    dist.all_reduce(both)
    found = listening(os.getpid()) if both.item() == 2 else None
    with open(os.path.join(config["to"], str(dist.get_rank())), "w") as stream:
        json.dump(found, stream)
    dist.barrier()  # none leaves, and closes its ports, before the other has looked


def test_it_listens_on_loopback_only(ray_session, tmp_path):
    DataParallelTrainer(
        _in_a_worker,
        train_loop_config={"to": str(tmp_path)},
        backend_config=ProcessGroup("gloo"),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(tmp_path / "run")),
    ).fit()
    workers = [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    assert [len(found) for found in workers] == [3, 2]  # Ray's, Gloo's, and the first one's store
    found = [*listening(os.getpid()), *(("worker", ip) for found in workers for _, ip in found)]
    assert beyond_loopback(found) == []
    who = {one for one, _ in found}
    # Where another Ray has the monitor's port, which is always the same, it does without
    assert explained() - {"ProxyActor", "monitor.py"} <= who <= explained()

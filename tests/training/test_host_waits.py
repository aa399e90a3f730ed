"""A micro-batch's forward and backward pass never wait for the device: the host reads none of its values, and
sizes none of its tensors by them.
"""

import os
from dataclasses import fields

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from clickprompt.config import replaced
from clickprompt.io import storage
from clickprompt.models import backbones
from tests.support.engines import SMALL, record
from tests.support.objectives import CASES, config_of_cases, objective_and_batch
from tests.support.waits import Waits

BACKBONES = sorted(backbones.BACKBONES)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of_cases(tmp_path_factory.mktemp("waits"))


@pytest.mark.parametrize("case", CASES)
def test_no_operator_waits(config, case):
    objective, batch = objective_and_batch(config, *CASES[case])
    with Waits() as waits:
        objective(batch).sum().backward()
    assert waits.seen == []


def test_the_waits_are_seen():
    x = torch.arange(4.0).requires_grad_()
    with Waits() as waits:
        if x[x > 1].sum() > 0:
            torch.bincount(torch.ones(3, dtype=torch.int64))
    assert waits.seen == ["index", "_local_scalar_dense", "bincount"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sampled(6)
def test_both_passes_need_no_values(config, case):
    """On the meta device tensors have shapes only: whoever asks for a value gets an error."""
    objective, batch = objective_and_batch(config, *CASES[case])
    meta = torch.device("meta")
    objective.to(meta)(batch.to(meta)).sum().backward()
    gradients = {name: one.grad for name, one in objective.model.named_parameters() if one.requires_grad}
    assert all(one is not None and one.is_meta for one in gradients.values()), gradients


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_ctr_backbone_needs_values(config, backbone):
    objective, batch = objective_and_batch(config, "without_plm", {"ctr.backbone": backbone})
    meta = torch.device("meta")
    objective.to(meta)(batch.to(meta)).sum().backward()


def test_a_moved_batch_has_every_tensor_on_the_device(config):
    _, batch = objective_and_batch(config, *CASES["ids and text"])

    def tensors(of):
        for field in fields(of):
            value = getattr(of, field.name)
            if isinstance(value, Tensor):
                yield value
            elif hasattr(value, "__dataclass_fields__"):
                yield from tensors(value)

    assert sum(1 for _ in tensors(batch)) > 20
    assert all(tensor.is_meta for tensor in tensors(batch.to(torch.device("meta"))))


def _count_synchronize(_, config, out):
    from deepspeed.accelerator import get_accelerator

    from clickprompt.training.deepspeed_engine import DeepSpeedEngine

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    waits = []
    get_accelerator().synchronize = lambda *args: waits.append(1)
    begin = DeepSpeedEngine.begin
    counts = {}

    def first_begin(self, micro_batches, step):
        assert len(micro_batches) == 4
        if step == 0:
            waits.clear()  # those of its construction
        begin(self, micro_batches, step)

    DeepSpeedEngine.begin = first_begin
    for stage in "0123":
        recorder = record(replaced(config, SMALL), engine=stage, until=4)
        assert len(recorder.losses) == 4
        counts[stage] = len(waits)
    storage.write_json(out, counts)
    dist.destroy_process_group()


@pytest.mark.slow
def test_no_step_of_deepspeed_synchronises(config, tmp_path):
    """Its throughput timer does from the third step on, unless it is switched off."""
    mp.spawn(_count_synchronize, (config, str(tmp_path / "counts.json")), nprocs=1)
    assert storage.read_json(str(tmp_path / "counts.json")) == dict.fromkeys("0123", 0)

"""Distributed equals single: PA-MLM loss curves of ZeRO workers and of one plain torch process on the same rows, and exact resume."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from clickprompt import storage
from clickprompt.config import Config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.dataset import Dataset
from clickprompt.data.order import Order, read_local_batches
from clickprompt.data.text import load_tokenizer
from clickprompt.data.token_table import TokenTable
from clickprompt.models.clickprompt import build_model
from clickprompt.objectives import OBJECTIVES
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from clickprompt.training.loop import train
from tests.tiny import tiny_config, write_both, write_plm

STEPS = 20


class Recorder:
    """A loop context that keeps losses in memory and copies each checkpoint's folder."""

    def __init__(self, keep=None):
        self.losses, self.keep = [], keep

    def on_step(self, metrics):
        self.losses.append(metrics["loss"])

    def on_best(self, state):
        raise AssertionError("nothing validates here")

    def on_checkpoint(self, folder, state, metrics):
        if self.keep:
            target = os.path.join(self.keep, f"{state.step}")
            os.makedirs(target, exist_ok=True)
            for parent, _, names in os.walk(folder):
                for name in names:
                    path = os.path.join(target, os.path.relpath(os.path.join(parent, name), folder))
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with open(os.path.join(parent, name), "rb") as source, open(path, "wb") as copy:
                        copy.write(source.read())


def losses_of(config: Config, *, engine: str = "torch", rank: int = 0, num_workers: int = 1, keep=None, resume=None) -> list[float]:
    torch.set_flush_denormal(True)
    dataset = Dataset.open(config.data.path)
    stage = config.pretrain
    order = Order.of(dataset, global_batch_size=stage.global_batch_size, chunk_batches=4, seed=config.seed, epochs=2, max_steps=STEPS)
    objective = OBJECTIVES["pretrain"](build_model(config, dataset.field_sizes, objective="pretrain"))
    if engine == "torch":
        built = TorchEngine(objective, stage, device=torch.device("cpu"))
    else:
        from clickprompt.training.deepspeed_engine import DeepSpeedEngine

        micro_batches = stage.micro_batches(num_workers)
        built = DeepSpeedEngine(objective, stage, zero_stage=int(engine), micro_batches=micro_batches, device=torch.device("cpu"))
    if resume:
        built.load(os.path.join(keep, str(resume)))
    table = TokenTable.open(dataset, load_tokenizer(config.plm.path))
    collator = Collator(dataset.columns, table, config.masking, lm=objective.model.plm.lm_kind, seed=config.seed)
    batches = read_local_batches(dataset, order, rank=rank, num_workers=num_workers, start_step=resume or 0)
    recorder = Recorder(keep)
    state = TrainState(step=resume or 0)
    train(built, objective, collator, order, batches, stage=stage, seed=config.seed, state=state, context=recorder)
    return recorder.losses


def with_micro_batch(config: Config, size: int) -> Config:
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"micro_batch_size": size})})


def _worker(rank, num_workers, port, config, cases, out):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(num_workers))
    dist.init_process_group("gloo", rank=rank, world_size=num_workers)
    curves = {}
    for name, (engine, micro_batch_size, resume) in cases.items():
        changed = with_micro_batch(config, micro_batch_size)
        keep = os.path.join(out, "kept", engine) if resume is not None else None
        curves[name] = losses_of(changed, engine=engine, rank=rank, num_workers=num_workers, keep=keep, resume=resume)
    if rank == 0:
        storage.write_json(os.path.join(out, "curves.json"), curves)
    dist.destroy_process_group()


def distributed(config, num_workers, cases, folder):
    """{case: (engine, micro-batch size, step to resume from)} → {case: losses}, all in one group of processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_worker, (num_workers, port, config, cases, str(folder)), nprocs=num_workers)
    return storage.read_json(os.path.join(folder, "curves.json"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    dataset, plm = write_both(str(folder))
    # A learning rate high enough that twenty steps move the loss
    return tiny_config(dataset.uri, plm, pretrain__lr="{ctr: 1e-2, projector: 1e-3, plm: 1e-3, heads: 1e-3}")


@pytest.fixture(scope="module")
def plain(config):
    losses = losses_of(config)
    assert len(losses) == STEPS
    assert losses[-1] < 0.95 * losses[0]
    return losses


TWO_WORKERS = {
    "ZeRO-2": ("2", 12, None),
    "ZeRO-2, smaller micro-batches": ("2", 4, None),
    "ZeRO-1": ("1", 6, None),
    "ZeRO-0": ("0", 12, None),
    "DistributedDataParallel": ("torch", 6, None),
    "ZeRO-2, kept": ("2", 12, 0),
    "ZeRO-2, resumed": ("2", 12, 10),
    "DistributedDataParallel, kept": ("torch", 12, 0),
    "DistributedDataParallel, resumed": ("torch", 12, 10),
}


@pytest.fixture(scope="module")
def two_workers(config, tmp_path_factory):
    return distributed(config, 2, TWO_WORKERS, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", [case for case, (_, _, resume) in TWO_WORKERS.items() if not resume])
def test_loss_curve_of_two_workers_equals_one_plain_process(two_workers, plain, case):
    assert two_workers[case] == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("engine", ["ZeRO-2", "DistributedDataParallel"])
def test_resume_continues_the_same_curve(two_workers, engine):
    assert two_workers[f"{engine}, resumed"] == two_workers[f"{engine}, kept"][10:]


@pytest.mark.parametrize("micro_batch_size", [4, 24])
def test_loss_curve_does_not_depend_on_the_micro_batch(config, plain, micro_batch_size):
    assert losses_of(with_micro_batch(config, micro_batch_size)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_next_token_and_denoising_losses_fall(config, tmp_path, family):
    losses = losses_of(replaced(config, {"plm.path": write_plm(str(tmp_path / family), family)}))
    assert losses[-1] < 0.95 * losses[0]

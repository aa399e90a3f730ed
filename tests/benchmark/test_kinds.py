"""The loops of benchmarks, by themselves in this process, on a dataset with every kind of column. What a step
computes is what a training of the same configuration computes.
"""

import itertools

import pytest
import torch

from clickprompt.benchmark.bare import BareLoop
from clickprompt.benchmark.ctr_stream import _StepsAlone
from clickprompt.benchmark.ingest import _make_step
from clickprompt.benchmark.pamlm_step import Setting, Shape, Steps
from clickprompt.benchmark.step_options import OptionSteps
from clickprompt.config import replaced
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.runtime.train.preflight import check_training
from tests.support.every_kind import write_every_kind
from tests.support.tiny import tiny_config

TINY = Shape(2, 16, 2, 24, global_batch_size=24, micro_batch_size=8, repeats=1, vocab_size=90, dropout=0.0)
KINDS = {"ctr.history": "mean", "ctr.numeric": "periodic", "ctr.tasks": "mmoe", "plm.history_items": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    dataset, plm = write_every_kind(str(tmp_path_factory.mktemp("kinds")))
    config = replaced(tiny_config(dataset.uri, plm), {**KINDS, "pretrain.global_batch_size": 24})
    return replaced(config, {"pretrain.micro_batch_size": 8, "runtime.num_workers": 1}), dataset


def order_of(config, dataset):
    return Order.of(dataset, global_batch_size=24, chunk_batches=4, seed=config.seed, epochs=1, max_steps=2)


def tower_of(steps):
    return steps._objective.model.ctr


def test_the_arms_of_pamlm_step(made):
    config, dataset = made
    arms = {name: Steps(Setting(config, dataset, TINY), name) for name in ("ours", "obvious")}
    losses = {name: arm.loss() for name, arm in arms.items()}
    assert losses["ours"] == pytest.approx(losses["obvious"], rel=1e-5)
    for arm in arms.values():
        arm.step()
        tower = tower_of(arm)
        assert None not in (tower.history, tower.numbers, tower.vectors)
        assert tower.multi


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
def test_the_step_of_step_options_and_lora_step(made, objective):
    config, dataset = made
    steps = OptionSteps(config, dataset, objective)
    assert 0 < steps.loss() < 20
    steps.step()
    assert steps._objective.model.tasks == (("like", "purchase") if objective == "with_plm" else ())
    assert tower_of(steps).vectors is not None


def test_the_bare_loop_of_overhead(made, tmp_path):
    config, dataset = made
    loop = BareLoop(config, dataset, order_of(config, dataset), 1, 2, str(tmp_path / "rendezvous"))
    losses = loop(0, lambda batches, rank: iter(batches))
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_the_steps_of_ctr_stream(made):
    config, _ = made
    changes = {"finetune.with_plm": False, "finetune.global_batch_size": 24, "finetune.micro_batch_size": 24}
    training = check_training(replaced(config, changes), "finetune")
    seen = []

    def pace(batches, rank):
        for step, batch in batches:
            seen.append(batch)
            yield step, batch

    _StepsAlone(training, 2)(0, pace)
    assert [batch.field_ids.shape[1] for batch in seen] == [len(training.dataset.id_columns)] * 2
    assert all(batch.more_labels.shape == (24, 2) for batch in seen)


def test_the_steps_of_ingest(made):
    config, dataset = made
    order = order_of(config, dataset)
    loop = _make_step(Setting(config, dataset, TINY), order, 0)
    threads = torch.get_num_threads()
    loop(itertools.islice(read_local_batches(dataset, order), order.total_steps))
    torch.set_num_threads(threads)

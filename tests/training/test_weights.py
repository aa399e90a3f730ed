"""Losses by weight: Σ w loss / Σ w over the global batch, however it is cut, and its gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.models.build import build_model
from clickprompt.objectives import ClickLoss, PretrainLoss
from clickprompt.training.engine import TorchEngine
from tests.support.engines import STEPS, Curves, dense_losses, small_cases
from tests.support.tiny import tiny_config
from tests.support.weighted import write_weighted

CASES = {
    "ids": ("torch", "without_plm", {}),
    "sharded": ("torch", "without_plm", {"finetune.embedding_optimizer": "sharded"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_weighted(str(tmp_path_factory.mktemp("weighted")))


@pytest.fixture(scope="module")
def config(made):
    dataset, plm = made
    rates = {"finetune__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}"}
    return tiny_config(dataset.uri, plm, finetune__validate_every=10, finetune__patience=99, **rates)


@pytest.fixture(scope="module")
def two_workers(config):
    return Curves(config, 2, small_cases(CASES))


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_process(config, two_workers, name):
    _, objective, changes = CASES[name]
    losses = dense_losses(config, objective, changes)
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-2)
    assert two_workers[name] == pytest.approx(losses, rel=2e-5)


def first_batch(dataset):
    order = Order.of(dataset, global_batch_size=50, chunk_batches=2, seed=0, epochs=1, max_steps=None)
    return next(read_local_batches(dataset, order))[1]


def gradients(config, dataset, columns, rows):
    """Of one step's loss, cut into micro-batches of so many rows: (loss, gradients)."""
    model = build_model(config, layout_of(dataset), objective="without_plm").eval()
    objective = ClickLoss(model)
    engine = TorchEngine(objective, config.finetune, device=torch.device("cpu"))
    batches = Collator(layout_of(dataset)).micro_batches(columns, rows)
    targets = torch.stack([objective.count_targets(batch) for batch in batches]).sum(0)
    sums = [engine.accumulate(batch, targets, last=True) for batch in batches]
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return (sum(sums) / targets).item(), found


def naive(config, dataset, columns):
    """The same, row by row."""
    model = build_model(config, layout_of(dataset), objective="without_plm").eval()
    ids = torch.from_numpy(np.stack([columns[name] for name in dataset.columns], 1).astype(np.int64))
    total, weights = torch.zeros(()), 0.0
    for row, weight in enumerate(columns["importance"].tolist()):
        if columns["weight"][row]:
            p = torch.sigmoid(model(ids[row : row + 1])[0])
            total = total - weight * torch.log(p if columns["label"][row] else 1 - p)
            weights += weight
    (total / weights).backward()
    return (total / weights).item(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("rows", [50, 7])
def test_equal_to_a_loop_over_the_rows(config, made, rows):
    dataset, _ = made
    columns = first_batch(dataset)
    assert 0 < columns["importance"][columns["weight"] > 0].sum() < 50
    loss, found = gradients(config, dataset, columns, rows)
    expected, slopes = naive(config, dataset, columns)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in slopes.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_equal_weights_change_nothing_but_rounding(config, made):
    dataset, _ = made
    columns = first_batch(dataset)
    halves = columns | {"importance": np.full(50, 0.01, np.float32)}
    without = {name: column for name, column in columns.items() if name != "importance"}
    one, other = (gradients(config, dataset, each, 50)[0] for each in (halves, without))
    assert one == pytest.approx(other, rel=1e-5)


def test_a_batch_in_which_nothing_counts(config, made):
    """Its loss and its gradient are 0, not NaN."""
    dataset, _ = made
    columns = first_batch(dataset)
    nothing = columns | {"importance": np.zeros(50, np.float32)}
    model = build_model(config, layout_of(dataset), objective="without_plm")
    objective = ClickLoss(model)
    engine = TorchEngine(objective, config.finetune, device=torch.device("cpu"))
    batch = Collator(layout_of(dataset))(nothing)
    counts = objective.count_targets(batch)
    assert counts.tolist() == [0.0]
    assert engine.accumulate(batch, counts.where(counts > 0, 1.0), last=True).tolist() == [0.0]
    assert engine.gradient_norm().item() == 0


def test_pretraining_counts_rows_alike(config, made):
    dataset, _ = made
    settings = replaced(config, {"pretrain.with_plm": False, "pretrain.id_objective": "replaced"})
    corruption = IdCorruption.of(dataset, settings.masking, settings.pretrain, settings.seed)
    batch = Collator(layout_of(dataset), corruption=corruption)(first_batch(dataset))
    assert (batch.loss_weight == 0).sum() > 10
    objective = PretrainLoss(build_model(settings, layout_of(dataset), objective="pretrain_ids").eval())
    alike = replace(batch, importance=None)
    assert objective(batch).tolist() == objective(alike).tolist() != [0.0]
    assert objective.count_targets(batch).tolist() == objective.count_targets(alike).tolist()

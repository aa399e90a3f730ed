"""A ranking loss is that of the whole global batch, however it is divided; two passes equal one graph."""

import itertools

import pytest
import torch

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.training.two_pass import first_pass
from tests.support.chosen import some
from tests.support.engines import SMALL, Case, Curves, build, losses_of
from tests.support.tiny import tiny_config, write_both

LOSSES = ["pairwise", "listwise"]
RATES = "{ctr: 1e-2, projector: 2e-3, plm: 1e-3, heads: 5e-3}"
WHOLE = {"finetune.micro_batch_size": 24}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-pass")
    dataset, plm = write_both(str(folder))
    return tiny_config(
        dataset.uri, plm, finetune__validate_every=5, finetune__patience=99, finetune__lr=RATES
    )


def ranked(loss, **changes):
    return {"finetune.loss": loss, **changes}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return str(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def two_workers(config, kept):
    cases = {}
    for loss in LOSSES:
        small = SMALL | ranked(loss)
        for engine, objective in (("torch", "without_plm"), ("torch", "with_plm"), ("3", "with_plm")):
            cases[f"{loss}, {engine}, {objective}"] = Case(engine, objective, changes=small, steps=10)
        for optimizer in ("lazy", "sharded"):
            changes = small | {"finetune.embedding_optimizer": optimizer}
            cases[f"{loss}, {optimizer}"] = Case("torch", "without_plm", changes=changes, steps=10)
        cases[f"{loss}, 2"] = Case("2", "without_plm", changes=small, steps=10)
    cases["kept"] = Case(
        "2", "with_plm", changes=SMALL | ranked("pairwise"), steps=10, until=4, keep=f"{kept}/pairwise"
    )
    return Curves(config, 2, cases)


@pytest.fixture(scope="module")
def plain(config):
    """One process and one graph."""
    return {
        (loss, objective): losses_of(replaced(config, WHOLE | ranked(loss)), objective=objective, steps=10)
        for loss in LOSSES
        for objective in ("with_plm", "without_plm")
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_another_loss_than_that_of_the_click(plain, config, loss):
    bce = losses_of(replaced(config, WHOLE), objective="without_plm", steps=10)
    assert plain[loss, "without_plm"] != pytest.approx(bce, rel=1e-2)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("objective", ["with_plm", "without_plm"])
@pytest.mark.parametrize("size", some([4, 12], 4))
def test_micro_batches_change_nothing(plain, config, loss, objective, size):
    changes = ranked(loss) | {"finetune.micro_batch_size": size}
    found = losses_of(replaced(config, changes), objective=objective, steps=10)
    assert found == pytest.approx(plain[loss, objective], rel=1e-5)


ENGINES = ["torch, without_plm", "torch, with_plm", "3, with_plm", "lazy", "sharded", "2"]
CHOSEN = [("pairwise", "torch, with_plm"), ("listwise", "sharded")]


@pytest.mark.parametrize(("loss", "case"), some(itertools.product(LOSSES, ENGINES), *CHOSEN))
def test_two_workers_equal_one_graph(two_workers, plain, loss, case):
    objective = case.partition(", ")[2] or "without_plm"
    assert two_workers[f"{loss}, {case}"] == pytest.approx(plain[loss, objective], rel=1e-5)


def test_it_goes_on_from_a_checkpoint(two_workers, plain, config, kept):
    two_workers["kept"]
    whole = replaced(config, WHOLE | ranked("pairwise"))
    found = losses_of(whole, objective="with_plm", steps=10, resume=4, keep=f"{kept}/pairwise")
    assert found[:6] == pytest.approx(plain["pairwise", "with_plm"][4:10], rel=1e-5)


def test_both_passes_draw_the_same_dropout(config):
    """The gradient by two passes is that of one graph over micro-batches that draw in the same order."""
    changes = ranked("pairwise") | {"finetune.micro_batch_size": 8, "ctr.dropout": 0.3}
    changes |= {"finetune.rank_weight": 1.0}
    settings = replaced(config, changes)
    dataset, _, objective, collator, engine = build(settings, "without_plm", "torch", 1)
    batches = collator.micro_batches(columns_of(dataset.read_split("train").slice(0, 24)), 8)
    objective.train()
    joint = objective.joint
    torch.manual_seed(3)
    logits = torch.cat([objective(batch, represent=True) for batch in batches])
    rows = torch.cat([joint.rows(batch) for batch in batches])
    joint.loss(logits, rows).backward()
    expected = {name: one.grad.clone() for name, one in objective.named_parameters()}
    objective.zero_grad()

    torch.manual_seed(3)
    first = first_pass(engine, batches)
    for batch in first.micro_batches:
        engine.accumulate(batch, [24.0, 1.0], last=False)
    for name, one in objective.named_parameters():
        torch.testing.assert_close(one.grad, expected[name], rtol=1e-4, atol=1e-4)
    assert first.loss_sum.item() == pytest.approx(joint.loss(logits, rows).item(), rel=1e-6)
    torch.manual_seed(4)
    other = first_pass(engine, batches)
    assert other.loss_sum.item() != pytest.approx(first.loss_sum.item(), rel=1e-4)


def test_the_first_pass_leaves_batch_norms_alone(config):
    changes = ranked("listwise") | {"ctr.backbone": "fgcnn"}
    dataset, _, objective, collator, engine = build(replaced(config, changes), "without_plm", "torch", 1)
    batches = collator.micro_batches(columns_of(dataset.read_split("train").slice(0, 24)), 12)
    objective.train()
    before = {name: value.clone() for name, value in objective.named_buffers()}
    first = first_pass(engine, batches)
    assert all(torch.equal(value, before[name]) for name, value in objective.named_buffers())
    objective(first.micro_batches[0])
    assert any(not torch.equal(value, before[name]) for name, value in objective.named_buffers())

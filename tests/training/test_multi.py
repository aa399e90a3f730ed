"""A tower that pools several values trains to the same losses with one worker and with two."""

import pytest

from tests.support.engines import SMALL, STEPS, Case, Curves, dense_losses
from tests.support.multi import write_with_multi
from tests.support.tiny import tiny_config

CASES = {
    "lazy": {"ctr.backbone": "fm", "ctr.pooling": "sum", "finetune.embedding_optimizer": "lazy"},
    "sharded": {"ctr.pooling": "max", "finetune.embedding_optimizer": "sharded"},
    "dense": {},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_with_multi(str(tmp_path_factory.mktemp("multi")), more="history: 2")
    rates = {
        "pretrain__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
        "finetune__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
    }
    return tiny_config(dataset.uri, plm, finetune__validate_every=10, finetune__patience=99, **rates)


@pytest.fixture(scope="module")
def two_workers(config):
    cases = {
        name: Case("torch", objective="without_plm", changes=SMALL | changes)
        for name, changes in CASES.items()
    }
    return Curves(config, 2, cases)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_dense_process(config, two_workers, name):
    losses = dense_losses(config, "without_plm", CASES[name])
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-3)
    assert two_workers[name] == pytest.approx(losses, rel=2e-5)

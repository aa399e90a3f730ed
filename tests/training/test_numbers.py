"""A tower that embeds numbers trains to the same losses with one worker and with two."""

import pytest

from clickprompt.config import replaced
from tests.support.engines import SMALL, STEPS, Case, Curves, losses_of
from tests.support.numbers import write_with_numbers
from tests.support.tiny import tiny_config

CASES = {
    "lazy": {"ctr.numeric": "periodic", "finetune.embedding_optimizer": "lazy"},
    "sharded": {"ctr.numeric": "soft_buckets", "finetune.embedding_optimizer": "sharded"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_with_numbers(str(tmp_path_factory.mktemp("numbers")), more="history: 2")
    rate = "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}"
    return tiny_config(
        dataset.uri, plm, finetune__lr=rate, finetune__validate_every=10, finetune__patience=99
    )


@pytest.fixture(scope="module")
def two_workers(config):
    cases = {name: Case("torch", "without_plm", SMALL | changes) for name, changes in CASES.items()}
    return Curves(config, 2, cases)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_dense_process(config, two_workers, name):
    alone = replaced(config, {"ctr.numeric": CASES[name]["ctr.numeric"]})
    losses = losses_of(alone, objective="without_plm")
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-3)
    assert two_workers[name] == pytest.approx(losses, rel=2e-5)

"""A tower that reads given vectors trains to the same losses with one worker and with two, by any engine."""

import pytest

from clickprompt.config import replaced
from tests.support.engines import SMALL, STEPS, Case, Curves, losses_of
from tests.support.tiny import tiny_config
from tests.support.vectors import write_with_vectors

IDS = {"pretrain.id_objective": "masked", "masking.hide_ids": 0.5}
CASES = {
    "lazy": Case("torch", "without_plm", SMALL | {"finetune.embedding_optimizer": "lazy"}, until=8),
    "ZeRO 3, restoring ids": Case("3", "pretrain", SMALL | IDS, until=8),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_with_vectors(str(tmp_path_factory.mktemp("vectors")), more="history: 2")
    rate = "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}"
    return tiny_config(
        dataset.uri,
        plm,
        pretrain__lr=rate,
        finetune__lr=rate,
        finetune__validate_every=10,
        finetune__patience=99,
    )


@pytest.fixture(scope="module")
def two_workers(config):
    return Curves(config, 2, CASES)


@pytest.mark.parametrize("name", ["lazy", pytest.param("ZeRO 3, restoring ids", marks=pytest.mark.slow)])
def test_losses_are_those_of_one_dense_process(config, two_workers, name):
    case = CASES[name]
    changes = {} if case.objective == "without_plm" else IDS
    losses = losses_of(replaced(config, changes), objective=case.objective, steps=STEPS, until=8)
    plain = losses_of(
        replaced(config, changes | {"ctr.vectors": "none"}), objective=case.objective, steps=STEPS, until=8
    )
    assert losses != pytest.approx(plain, rel=1e-4)
    assert two_workers[name] == pytest.approx(losses, rel=2e-5)

"""A tower that reads histories, and their further columns, trains to the same losses by any engine, with one
worker and with two.
"""

import pytest

from clickprompt.config import replaced
from tests.support.chosen import some
from tests.support.engines import STEPS, Curves, dense_losses, losses_of, small_cases
from tests.support.histories import FURTHER, write_with_history
from tests.support.tiny import tiny_config

KINDS = ["mean", "din", "transformer"]
IDS = {"pretrain.with_plm": False, "pretrain.id_objective": "masked", "pretrain.id_candidates": 4}
CASES = {
    **{kind: ("torch", "without_plm", {"ctr.history": kind}) for kind in KINDS},
    "lazy": ("torch", "without_plm", {"finetune.embedding_optimizer": "lazy"}),
    "sharded": ("torch", "without_plm", {"finetune.embedding_optimizer": "sharded"}),
    "ZeRO 2": ("2", "without_plm", {}),
    "ZeRO 3": ("3", "with_plm", {}),
    "linear terms": ("torch", "without_plm", {"ctr.backbone": "fm", "finetune.embedding_optimizer": "lazy"}),
    "prompts": ("torch", "pretrain", {}),
    "text": ("torch", "pretrain", {"plm.history_items": 3}),
    "masked ids": ("torch", "pretrain_ids", IDS | {"pretrain.embedding_optimizer": "lazy"}),
    "replaced ids": ("torch", "pretrain_ids", IDS | {"pretrain.id_objective": "replaced"}),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_with_history(str(tmp_path_factory.mktemp("history")), FURTHER)
    rates = {
        "pretrain__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
        "finetune__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
    }
    return tiny_config(dataset.uri, plm, finetune__validate_every=10, finetune__patience=99, **rates)


@pytest.fixture(scope="module")
def two_workers(config):
    return Curves(config, 2, small_cases(CASES))


CHOSEN = ["din", "sharded", "text"]


@pytest.mark.parametrize("name", some(CASES, *CHOSEN))
def test_losses_are_those_of_one_dense_process(config, two_workers, name):
    _, objective, changes = CASES[name]
    losses = dense_losses(config, objective, changes)
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-2)
    assert two_workers[name] == pytest.approx(losses, rel=2e-5)


def test_the_history_is_read(config):
    with_it, without = (
        losses_of(replaced(config, {"ctr.history": kind}), objective="without_plm")
        for kind in ("din", "none")
    )
    assert with_it[STEPS - 1] != pytest.approx(without[STEPS - 1], rel=1e-3)

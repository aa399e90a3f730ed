"""Objectives on ids, and the click in the text, in training: every engine, the lazy tables and any number of
workers give one plain process's losses, also across a restart.
"""

import itertools
from functools import cache

import pytest

from clickprompt.config import replaced
from tests.support.chosen import some
from tests.support.engines import SMALL, STEPS, Case, Curves, losses_of
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both

RATES = "{ctr: 1e-2, projector: 2e-3, plm: 1e-3, heads: 5e-3}"
# Restarted at a checkpoint, and without validations, whose losses would come between
BY_LM_HEAD = {"plm.click_text": True, "finetune.checkpoint_every": 5, "finetune.validate_every": 100}
OBJECTIVES = {
    "all with text": (
        "pretrain",
        {
            "masking.hide_ids": 0.5,
            "masking.mask_rate": 0.3,
            "pretrain.id_objective": "masked",
            "pretrain.id_weight": 0.5,
            "pretrain.text_id_weight": 2.0,
            "pretrain.id_candidates": 4,
        },
    ),
    "replaced alone": ("pretrain_ids", {"pretrain.with_plm": False, "pretrain.id_objective": "replaced"}),
    "masked alone": (
        "pretrain_ids",
        {"pretrain.with_plm": False, "pretrain.id_objective": "masked", "pretrain.id_candidates": 4},
    ),
    "text with clicks": (
        "pretrain",
        {
            "plm.click_text": True,
            "finetune.label_share": 0.5,
            "masking.mask_rate": 0.3,
            "masking.vocabulary": "dataset",
        },
    ),
    "clicks by the LM head": ("with_plm", BY_LM_HEAD),
    "clicks by the LM head of a frozen PLM": ("with_plm", {**BY_LM_HEAD, "finetune.lr.plm": 0}),
}
LAZY = {"pretrain.embedding_optimizer": "lazy", "finetune.embedding_optimizer": "lazy"}
SHARDED = dict.fromkeys(LAZY, "sharded")
ENGINES = {"torch": {}, "2": {}, "3": {}, "torch, lazy": LAZY, "2, lazy": LAZY, "torch, sharded": SHARDED}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("ids")), more_words=CLICK_WORDS)
    return tiny_config(dataset.uri, plm, pretrain__lr=RATES)


@pytest.fixture(scope="module")
def plain(config):
    """name → one process's losses, `plain(name)`."""

    @cache
    def of(name):
        objective, changes = OBJECTIVES[name]
        return losses_of(replaced(config, changes), objective=objective)

    return of


@pytest.fixture(scope="module")
def two_workers(config, tmp_path_factory):
    cases = {}
    for name, (objective, changes) in OBJECTIVES.items():
        for engine, more in ENGINES.items():
            changed = {"changes": {**changes, **more, **SMALL}, "keep": str(tmp_path_factory.mktemp("kept"))}
            number = engine.split(",")[0]
            cases[f"{name}, {engine}"] = Case(number, objective, until=5, **changed)
            cases[f"{name}, {engine}, on"] = Case(number, objective, resume=5, until=10, **changed)
    return Curves(config, 2, cases)


# Which value is hidden can't be learned here: the fields of these rows are independent
@pytest.mark.parametrize("name", ["all with text", "replaced alone", "text with clicks"])
@pytest.mark.sampled(1)
def test_the_objective_is_learned(plain, name):
    losses = plain(name)
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


# Each objective, and each of them
CHOSEN = [
    ("all with text", "3"),
    ("replaced alone", "2, lazy"),
    ("masked alone", "torch, lazy"),
    ("text with clicks", "torch, sharded"),
    ("clicks by the LM head", "2"),
    ("clicks by the LM head of a frozen PLM", "torch"),
]


@pytest.mark.parametrize(("name", "engine"), some(itertools.product(OBJECTIVES, ENGINES), *CHOSEN))
def test_two_workers_with_a_restart_equal_one_plain_process(two_workers, plain, name, engine):
    found = two_workers[f"{name}, {engine}"] + two_workers[f"{name}, {engine}, on"]
    assert found == pytest.approx(plain(name)[:10], rel=1e-5)

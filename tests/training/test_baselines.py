"""Every baseline trains to the same losses with one worker and with two, and so does a CTR model that reads
frozen text vectors.
"""

import pytest

from clickprompt.config import replaced
from clickprompt.models.baselines import BASELINES
from clickprompt.runtime.prepare.embed import embed_values
from tests.support.baselines import SETTINGS, write_all
from tests.support.engines import SMALL, STEPS, Case, Curves, losses_of
from tests.support.tiny import tiny_config

FROZEN_TEXT = {"ctr.text_embeddings": "added", "finetune.with_plm": False, "prompt.num_prompts": 0}
STAGES = [(name, stage) for name, baseline in BASELINES.items() for stage in baseline.stages]


@pytest.fixture(scope="module")
def config_and_plms(tmp_path_factory):
    dataset, plms = write_all(str(tmp_path_factory.mktemp("baselines")))
    rates = {
        "pretrain__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
        "finetune__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
    }
    config = tiny_config(
        dataset.uri, plms["ptab"], finetune__validate_every=10, finetune__patience=99, **rates
    )
    embed_values(dataset, replaced(config, FROZEN_TEXT), 32)
    return config, plms


def objective_of(name, stage):
    if stage == "pretrain":
        return "pretrain"
    return "without_plm" if BASELINES[name].has_ctr else "with_plm"


@pytest.fixture(scope="module")
def two_workers(config_and_plms):
    config, plms = config_and_plms
    cases = {
        f"{name}, {stage}": Case(
            "torch",
            objective=objective_of(name, stage),
            changes=SMALL | SETTINGS[name] | {"plm.path": plms[name]},
        )
        for name, stage in STAGES
    }
    for tables in ("dense", "lazy", "sharded"):
        changes = SMALL | FROZEN_TEXT | {"finetune.embedding_optimizer": tables}
        cases[f"frozen text, {tables}"] = Case("torch", objective="without_plm", changes=changes)
    cases["frozen text, ZeRO 2"] = Case("2", objective="without_plm", changes=SMALL | FROZEN_TEXT)
    return Curves(config, 2, cases)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_two_workers_have_the_losses_of_one(config_and_plms, two_workers, name, stage):
    config, plms = config_and_plms
    settings = replaced(config, SETTINGS[name] | {"plm.path": plms[name]})
    losses = losses_of(settings, objective=objective_of(name, stage))
    assert len(losses) == STEPS + (2 if stage == "finetune" else 0)
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-2)
    assert two_workers[f"{name}, {stage}"] == pytest.approx(losses, rel=2e-5)


@pytest.mark.parametrize("case", ["dense", "lazy", "sharded", "ZeRO 2"])
def test_frozen_text_with_two_workers(config_and_plms, two_workers, case):
    config, _ = config_and_plms
    losses = losses_of(replaced(config, FROZEN_TEXT), objective="without_plm")
    without = losses_of(
        replaced(config, FROZEN_TEXT | {"ctr.text_embeddings": "none"}), objective="without_plm"
    )
    assert losses[0] == without[0]  # its map is 0 at first
    assert losses[STEPS - 1] != pytest.approx(without[STEPS - 1], rel=1e-3)
    assert two_workers[f"frozen text, {case}"] == pytest.approx(losses, rel=2e-5)

"""Every baseline trains to the same losses with one worker and with two."""

import pytest

from clickprompt.config import replaced
from clickprompt.models.baselines import BASELINES
from tests.support.baselines import SETTINGS
from tests.support.engines import SMALL, STEPS, Case, distributed, losses_of
from tests.support.tiny import tiny_config, write_both

STAGES = [(name, stage) for name, baseline in BASELINES.items() for stage in baseline.stages]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("baselines")))
    rates = {
        "pretrain__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
        "finetune__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
    }
    return tiny_config(dataset.uri, plm, finetune__validate_every=10, finetune__patience=99, **rates)


def objective_of(name, stage):
    if stage == "pretrain":
        return "pretrain"
    return "without_plm" if BASELINES[name].has_ctr else "with_plm"


@pytest.fixture(scope="module")
def two_workers(config, tmp_path_factory):
    cases = {
        f"{name}, {stage}": Case("torch", objective=objective_of(name, stage), changes=SMALL | SETTINGS[name])
        for name, stage in STAGES
    }
    return distributed(config, 2, cases, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_two_workers_have_the_losses_of_one(config, two_workers, name, stage):
    losses = losses_of(replaced(config, SETTINGS[name]), objective=objective_of(name, stage))
    assert len(losses) == STEPS + (2 if stage == "finetune" else 0)
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-2)
    assert two_workers[f"{name}, {stage}"] == pytest.approx(losses, rel=2e-5)

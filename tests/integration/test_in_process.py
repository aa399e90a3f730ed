"""A training in one process and on Ray is the same training: begun on one and ended on the other, it has the
losses, validations, weights and moments of one that stayed where it was, to the bit.
"""

import pytest

from clickprompt.config import replaced
from clickprompt.errors import RunError
from clickprompt.io import storage
from clickprompt.runtime import in_process
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import checkpoint_name
from clickprompt.training.metrics_log import read_metrics
from tests.support.ending import EndsBefore, are_the_same
from tests.support.tiny import tiny_config, write_both

pytestmark = pytest.mark.ray
STEPS = 14
CASES = {
    "pretrain": {},
    "finetune with the PLM": {"finetune.with_plm": True},
    "finetune without it": {
        "finetune.with_plm": False,
        "finetune.average_validations": 2,
        "finetune.embedding_optimizer": "lazy",
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("both")))
    return tiny_config(
        dataset.uri,
        plm,
        pretrain__max_steps=STEPS,
        finetune__max_steps=STEPS,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
    )


def on_ray(config, stage, run, around=None):
    return run_training(config, stage, run, around=around)


def in_this_process(config, stage, run, around=None):
    """As if the session's Ray weren't there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_process, "connected", lambda: False)
        return run_training(replaced(config, {"runtime.use_ray": "never"}), stage, run, around=around)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if "without" in case else pytest.mark.slow) for case in CASES]
)
def test_a_training_goes_on_where_it_did_not_begin(ray_session, config, tmp_path, case):
    settings, stage = replaced(config, CASES[case]), case.split()[0]
    undisturbed = str(tmp_path / "undisturbed")
    in_this_process(settings, stage, undisturbed)
    run = str(tmp_path / "run")
    for train, step in ((in_this_process, 6), (on_ray, 11)):
        with pytest.raises(RunError, match="ended by the test"):
            train(settings, stage, run, EndsBefore(step))
    in_this_process(settings, stage, run)
    are_the_same(run, undisturbed)
    left = [name for name in storage.list_names(f"{run}/checkpoints") if name.startswith("step-")]
    assert len(left) == settings.runtime.keep_checkpoints
    assert left[-1] == checkpoint_name(STEPS)


@pytest.mark.slow
def test_zero_workers_run_goes_on_with_one_worker_on_torch(ray_session, config, tmp_path):
    """What two ZeRO workers began one worker continues in this process, where no DeepSpeed is needed."""
    settings = replaced(config, {"runtime.engine": "deepspeed", "runtime.num_workers": 2})
    undisturbed, run = str(tmp_path / "undisturbed"), str(tmp_path / "run")
    assert on_ray(settings, "pretrain", undisturbed)["engine"] == "ZeRO-2"
    with pytest.raises(RunError, match="ended by the test"):
        on_ray(settings, "pretrain", run, EndsBefore(9))
    alone = replaced(settings, {"runtime.num_workers": 1})
    assert in_this_process(alone, "pretrain", run)["engine"] == "plain torch"
    losses, expected = ([line["loss"] for line in read_metrics(path)] for path in (run, undisturbed))
    assert len(losses) == STEPS
    assert losses == pytest.approx(expected, rel=1e-5)

"""Finetuning with a ranking loss, in the command's own process."""

import pytest

from clickprompt.config import replaced
from clickprompt.errors import ConfigError, DataError, RunError
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from tests.support.ending import EndsBefore, are_the_same, lines_of
from tests.support.tiny import tiny_config, write_both


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("ranking")))
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        finetune__max_steps=14,
        finetune__with_plm=False,
        finetune__loss="pairwise",
        finetune__micro_batch_size=6,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
        ctr__dropout=0.2,
    )


@pytest.mark.parametrize("changes", [{}, {"finetune.loss": "listwise", "finetune.with_plm": True}])
@pytest.mark.sampled(1)
def test_a_run_that_fails_continues_to_the_same_bits(config, tmp_path, capsys, changes):
    settings = replaced(config, changes)
    run_training(settings, "finetune", str(tmp_path / "undisturbed"))
    assert "pairs of a click and another row of the same user in each of the first 4 batches" in (
        capsys.readouterr().err
    )
    run = str(tmp_path / "run")
    for step in (6, 11):
        with pytest.raises(RunError, match="ended by the test"):
            run_training(settings, "finetune", run, around=EndsBefore(step))
    run_training(settings, "finetune", run)
    are_the_same(run, str(tmp_path / "undisturbed"))
    loss = settings.finetune.loss
    counted = "pairs" if loss == "pairwise" else "groups"
    for line in lines_of(run):
        assert line[counted] > 0
        assert line["loss"] == pytest.approx(0.5 * line["click_loss"] + 0.5 * line[f"{loss}_loss"])
    [found] = evaluate([run], "test", config=settings)
    assert set(found["ranking"]["figures"]) > {"ndcg@5", "hit_rate@10", "mrr"}


def test_bce_has_the_order_it_always_had(config):
    order = check_training(replaced(config, {"finetune.loss": "bce"}), "finetune").order
    assert order.group_column is None


def test_what_cannot_be_ranked_is_refused(config):
    alone = {"finetune.global_batch_size": 1, "finetune.micro_batch_size": 1, "data.chunk_batches": 1}
    with pytest.raises(
        DataError, match=r"finetune.loss: none of the first 1 batches has a click and another"
    ):
        check_training(replaced(config, alone), "finetune")
    compiled = {"finetune.with_plm": True, "runtime.compile": "default"}
    with pytest.raises(ConfigError, match=r"finetune.loss=pairwise can't be combined with runtime.compile"):
        check_training(replaced(config, compiled), "finetune")

"""A tiny grid through the real Ray Tune: one pretraining per K, one finetuning per (K, learning rate) on top of it."""

import os

import pytest

from clickprompt import storage
from clickprompt.config import replaced
from clickprompt.runtime.tune import run_tune
from tests.tiny import tiny_config, write_both

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_grid_of_prompts_and_learning_rates(ray_session, tmp_path):
    dataset, plm = write_both(str(tmp_path))
    config = replaced(
        tiny_config(dataset.uri, plm, pretrain__max_steps=6, finetune__max_steps=8),
        {"tune.num_prompts": [1, 2], "tune.warmup_ratio": [0.0], "tune.plm_lr": [0.0, 1e-3], "tune.max_concurrent_trials": 2},
    )
    run = str(tmp_path / "tune")
    result = run_tune(config, run)
    assert len(result["trials"]) == 4
    assert result["best"]["valid_auc"] == max(trial["valid_auc"] for trial in result["trials"])
    assert {(trial["changes"]["prompt.num_prompts"], trial["changes"]["finetune.lr.plm"]) for trial in result["trials"]} == {
        (prompts, rate) for prompts in (1, 2) for rate in (0.0, 1e-3)
    }
    pretrained = [name for name in storage.list_names(run) if name.startswith("pretrain-")]
    assert pretrained == ["pretrain-K1-warmup0", "pretrain-K2-warmup0"]  # not one per point
    for trial in result["trials"]:
        export = storage.read_json(os.path.join(trial["run"], "export", "export.json"))
        assert export["config"]["prompt"]["num_prompts"] == trial["changes"]["prompt.num_prompts"]
        assert export["config"]["finetune"]["lr"]["plm"] == trial["changes"]["finetune.lr.plm"]

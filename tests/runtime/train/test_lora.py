"""Trainings with adapters (`plm.lora`), in this process: stopped and continued, one from another, and what is
made of them: scores, a server's folder, peft's files.
"""

import json
import os

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModel, BertConfig, BertForMaskedLM

from clickprompt.cli.main import main
from clickprompt.config import Config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError, DataError, RunError
from clickprompt.export.adapter import export_adapter
from clickprompt.export.format import export_of, load_export, load_weights, read_info
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.rows import RowScorer
from tests.support.ending import EndsBefore, are_the_same
from tests.support.finetuned import write_run
from tests.support.tiny import tiny_config, write_both

STEPS = 6
LORA = {"plm.lora.rank": 2, "plm.lora.alpha": 8.0, "plm.lora.dropout": 0.1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The PLM has weights: those that adapters are of."""
    dataset, plm = write_both(str(tmp_path_factory.mktemp("lora")))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertForMaskedLM(BertConfig.from_pretrained(plm)).save_pretrained(plm)
    return dataset, plm


@pytest.fixture(scope="module")
def config(prepared) -> Config:
    dataset, plm = prepared
    settings = {
        "runtime__use_ray": "never",
        "pretrain__max_steps": STEPS,
        "pretrain__checkpoint_every": 2,
        "finetune__max_steps": 2,
        "finetune__validate_every": 2,
        "plm__random_init": False,
        "pretrain__lr__plm": 0.02,
    }
    return replaced(tiny_config(dataset.uri, plm, **settings), LORA)


@pytest.fixture(scope="module")
def pretrained(config, tmp_path_factory) -> str:
    run = str(tmp_path_factory.mktemp("pretrained") / "run")
    run_training(config, "pretrain", run)
    return run


def finetuned(config: Config, init: str | None, run: str, **changes) -> str:
    """Two steps without a learning rate, so that the model is the one that it began with."""
    still = {"finetune.lr": dict.fromkeys(("ctr", "projector", "plm", "heads"), 1e-12)}
    run_training(replaced(config, {**still, "finetune.init": init, **changes}), "finetune", run)
    return run


def adapters_of(run: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_weights(export_of(run)).items() if ".lora_" in name}


def test_a_run_that_fails_continues_to_the_same_bits(config, pretrained, tmp_path):
    run = str(tmp_path / "run")
    with pytest.raises(RunError, match="ended by the test"):
        run_training(config, "pretrain", run, around=EndsBefore(5))
    run_training(config, "pretrain", run)
    are_the_same(run, pretrained)
    size = {
        name: os.path.getsize(f"{run}/{name}")
        for name in (f"checkpoints/step-{STEPS:08d}/state-00000.safetensors", "export/model.safetensors")
    }
    assert any(tensor.abs().max() > 1e-3 for name, tensor in adapters_of(run).items() if "lora_B" in name)
    with safe_open(f"{run}/checkpoints/step-{STEPS:08d}/state-00000.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "base_layer" in key], size  # noqa: SIM118


def plm_states(run: str) -> torch.Tensor:
    model, _ = load_export(export_of(run))
    input_ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        return model.plm(input_ids, torch.ones_like(input_ids))


def test_finetuning_goes_on_with_adapters_or_merges_them(config, pretrained, tmp_path):
    expected, before = plm_states(pretrained), adapters_of(pretrained)
    going_on = finetuned(config, pretrained, str(tmp_path / "on"))
    after = adapters_of(going_on)
    assert after.keys() == before.keys()
    assert all(torch.allclose(after[name], before[name], atol=1e-9) for name in before)
    wider = finetuned(config, pretrained, str(tmp_path / "wider"), **{"plm.lora.rank": 3})
    assert all(
        not tensor.abs().max() > 1e-9 for name, tensor in adapters_of(wider).items() if "lora_B" in name
    )
    whole = finetuned(config, pretrained, str(tmp_path / "whole"), **{"plm.lora.rank": 0})
    assert adapters_of(whole) == {}
    for run in (going_on, wider, whole):
        torch.testing.assert_close(plm_states(run), expected, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="its adapters are of a PLM that was trained as a whole before"):
        export_adapter(wider, str(tmp_path / "adapter"))
    with pytest.raises(DataError, match=r"trained without plm\.lora, so it has no adapters"):
        export_adapter(whole, str(tmp_path / "adapter"))
    assert not os.path.exists(tmp_path / "adapter")


def test_merged_scores_are_the_trained_models(prepared, tmp_path):
    dataset, plm = prepared
    run = str(tmp_path / "run")
    model = write_run(run, prepared, "with_plm", plm__random_init=False, **{"plm__lora__rank": 2})
    rows = dataset.read_split("test")
    batch = Collator(layout_of(dataset), TokenTable.open(dataset, load_tokenizer(plm)))(columns_of(rows))
    with torch.no_grad():
        logits = model(batch.field_ids, batch.input_ids, batch.attention_mask).tolist()
    expected = dict(zip(batch.row_ids.tolist(), logits, strict=True))
    out = str(tmp_path / "served")
    export_for_serving(run, out)
    assert not [name for name in load_weights(out) if "lora" in name or "base_layer" in name]
    assert read_info(out).config["plm"]["lora"]["rank"] == 0
    assert read_info(export_of(run)).config["plm"]["lora"]["rank"] == 2
    for export in (export_of(run), out):
        scores = RowScorer(export, dataset).score(rows)
        found = [expected[row] for row in scores.row_ids.tolist()]
        assert scores.logits.tolist() == pytest.approx(found, abs=1e-5)


def test_peft_reads_the_adapters(pretrained, prepared, tmp_path, capsys):
    out = str(tmp_path / "adapter")
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", pretrained, "--format", "adapter", "--out", out, "--json"])
    assert stopped.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(os.listdir(out)) == ["adapter_config.json", "adapter_model.safetensors"]
    base = AutoModel.from_pretrained(prepared[1])
    model = PeftModel.from_pretrained(base, out).eval()
    assert result["parameters"] == sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    input_ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        found = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state
        plain = AutoModel.from_pretrained(prepared[1])(input_ids=input_ids).last_hidden_state
    torch.testing.assert_close(found, plm_states(pretrained), rtol=0, atol=1e-5)
    assert (found - plain).abs().max() > 1e-4


def test_an_unknown_target_is_refused_before_the_training(config):
    with pytest.raises(ConfigError, match=r"plm\.lora\.targets: .* no linear map 'q_proj'"):
        check_training(replaced(config, {"plm.lora.targets": ["q_proj"]}), "pretrain")

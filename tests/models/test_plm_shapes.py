"""The shapes that planning knows are those of the public models: their published numbers of parameters."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from clickprompt.cli.main import main
from clickprompt.config import PLMConfig
from clickprompt.errors import ConfigError
from clickprompt.models.plm_loading import check_plm
from clickprompt.models.plm_shapes import SHAPES

PUBLISHED = {  # of the encoder or decoder with its embeddings, as the hub's safetensors files hold them
    "FacebookAI/roberta-base": 124_645_632,
    "FacebookAI/roberta-large": 355_359_744,
    "google-bert/bert-base-uncased": 109_482_240,
    "google-bert/bert-large-uncased": 335_141_888,
    "huawei-noah/TinyBERT_General_4L_312D": 14_350_248,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "distilbert/distilbert-base-uncased": 66_362_880,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-medium": 354_823_168,
    "openai-community/gpt2-large": 774_030_080,
    "facebook/bart-base": 139_420_416,
    "google-t5/t5-small": 60_506_624,
    "google-t5/t5-base": 222_903_552,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616 - 32_000 * 4096,  # less their output matrix
    "Qwen/Qwen2.5-7B": 7_615_616_512 - 152_064 * 3584,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_published_number_of_parameters(name):
    values = SHAPES[name]
    with torch.device("meta"):
        model = AutoModel.from_config(CONFIG_MAPPING[values["model_type"]].from_dict(values))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_only_an_architecture_comes_from_here(monkeypatch):
    """Weights are never made up: without random_init the hub is asked."""

    def hub(name: str) -> str:
        raise ConfigError(f"the hub was asked for {name}")

    monkeypatch.setattr("clickprompt.models.plm_files._hub_config", hub)
    monkeypatch.setattr("clickprompt.models.plm_files._cached", lambda *_: None)
    known = "FacebookAI/roberta-large"
    assert check_plm(PLMConfig(path=known, random_init=True)).num_layers == 24
    with pytest.raises(ConfigError, match=f"asked for {known}"):
        check_plm(PLMConfig(path=known))


def test_plan_needs_no_network(monkeypatch, capsys):
    def unreachable(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("clickprompt.models.plm_files.get_session", unreachable)
    monkeypatch.setattr("clickprompt.models.plm_files.hf_hub_download", unreachable)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "goodreads-roberta-large"])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    assert "PLM 354,310,144" in output.out  # RoBERTa-large less its pooler, which is not used

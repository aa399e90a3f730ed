"""Prompt fusion (Eq. 7) against really concatenating hidden states; loading and its errors."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from clickprompt.config import PLMConfig
from clickprompt.errors import ConfigError, DataError
from clickprompt.models.plm import PromptedPLM, check_plm, load_plm, plm_from_config

K = 2
MINILM = os.environ.get("CLICKPROMPT_MINILM")
families = pytest.mark.parametrize("family", ["bert", "roberta"])


def naive_eq7(plm: PromptedPLM, input_ids: Tensor, attention_mask: Tensor, soft_prompts: Tensor) -> Tensor:
    """Each layer runs over [prompts ⊕ hidden states], K + Z positions; its first K outputs are dropped. Shares plm's weights."""
    hidden = plm.backbone.embeddings(input_ids=input_ids)
    num_prompts = soft_prompts.shape[2]
    visible = torch.cat([attention_mask.new_ones(len(input_ids), num_prompts), attention_mask], dim=1)
    additive = torch.zeros(visible.shape, dtype=hidden.dtype).masked_fill(visible == 0, -torch.inf)[:, None, None, :]
    for index, layer in enumerate(plm.backbone.encoder.layer):
        hidden = layer(torch.cat([soft_prompts[:, index], hidden], dim=1), additive)[:, num_prompts:]
    return hidden


def gradients(plm: PromptedPLM, hidden: Tensor, attention_mask: Tensor, soft_prompts: Tensor) -> dict[str, Tensor]:
    """Of a fixed random function of the text's hidden states (padding left out), for every weight and the prompts."""
    coefficients = torch.randn(hidden.shape, dtype=hidden.dtype, generator=torch.Generator().manual_seed(1))
    plm.zero_grad()
    soft_prompts.grad = None
    (hidden * coefficients * attention_mask[..., None]).sum().backward()
    result = {name: parameter.grad.clone() for name, parameter in plm.named_parameters() if parameter.grad is not None}
    return result | {"soft_prompts": soft_prompts.grad.clone()}


def random_prompts(plm: PromptedPLM, rows: int, num_prompts: int = K) -> Tensor:
    shape = (rows, plm.num_layers, num_prompts, plm.hidden_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(plm.backbone.dtype).requires_grad_()


@families
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lengths", [[9, 9, 9], [4, 9, 6]], ids=["unpadded", "padded"])
def test_fusion_equals_concatenation(save_tiny, tokens, family, attention, checkpointing, lengths) -> None:
    config = PLMConfig(path=save_tiny(family), attn_implementation=attention, gradient_checkpointing=checkpointing)
    plm = load_plm(config, lm_head=False).double().train()
    input_ids, attention_mask = tokens(lengths)
    prompts = random_prompts(plm, len(lengths))

    hidden = plm(input_ids, attention_mask, prompts)
    ours = gradients(plm, hidden, attention_mask, prompts)
    expected_hidden = naive_eq7(plm, input_ids, attention_mask, prompts)
    expected = gradients(plm, expected_hidden, attention_mask, prompts)

    text = attention_mask.bool()
    torch.testing.assert_close(hidden[text], expected_hidden[text], rtol=0, atol=1e-6)
    assert ours.keys() == expected.keys() == {name for name, _ in plm.named_parameters()} | {"soft_prompts"}
    for name in ours:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert (ours["soft_prompts"].abs().amax(dim=-1) > 1e-6).all(), "a prompt of some layer has no gradient"


@families
def test_rows_do_not_depend_on_the_padding_of_their_batch(save_tiny, tokens, family) -> None:
    plm = load_plm(PLMConfig(path=save_tiny(family))).double().eval()
    input_ids, attention_mask = tokens([4, 9])
    prompts = random_prompts(plm, 2)
    alone = plm(input_ids[:1, :4], attention_mask[:1, :4], prompts[:1])
    torch.testing.assert_close(plm(input_ids, attention_mask, prompts)[:1, :4], alone, rtol=0, atol=1e-12)


@families
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_prompts_it_is_the_plain_model(save_tiny, tokens, family, attention) -> None:
    path = save_tiny(family)
    plm = load_plm(PLMConfig(path=path, attn_implementation=attention)).eval()
    plain = AutoModelForMaskedLM.from_pretrained(path, attn_implementation=attention).eval()
    input_ids, attention_mask = tokens([4, 9])
    text = attention_mask.bool()
    expected = plain(input_ids=input_ids, attention_mask=attention_mask).logits[text]
    for prompts in (None, random_prompts(plm, 2, num_prompts=0)):
        torch.testing.assert_close(plm.lm_logits(plm(input_ids, attention_mask, prompts)[text]), expected, rtol=0, atol=1e-5)


@families
@pytest.mark.parametrize("checkpointing", [False, True])
def test_forward_passes_before_a_backward_do_not_mix(save_tiny, tokens, family, checkpointing) -> None:
    """Two micro-batches forward, an evaluation in between, then both backward: as if each had been alone."""
    plm = load_plm(PLMConfig(path=save_tiny(family), gradient_checkpointing=checkpointing), lm_head=False).double().train()
    batches = [(*tokens([5, 3], seed=seed), random_prompts(plm, 2)) for seed in (1, 2)]
    alone = [gradients(plm, plm(*batch), batch[1], batch[2]) for batch in batches]

    first, second = (plm(*batch) for batch in batches)
    with torch.no_grad():
        plm.eval()(*tokens([8]), None)
        plm.train()
    for hidden, batch, expected in ((second, batches[1], alone[1]), (first, batches[0], alone[0])):
        together = gradients(plm, hidden, batch[1], batch[2])
        for name in expected:
            torch.testing.assert_close(together[name], expected[name], rtol=0, atol=1e-10)


@families
def test_a_copy_is_independent(save_tiny, tokens, family) -> None:
    plm = load_plm(PLMConfig(path=save_tiny(family))).eval()
    prompts = random_prompts(plm, 1)
    before = plm(*tokens([5]), prompts)
    other = copy.deepcopy(plm)
    with torch.no_grad():
        for parameter in plm.parameters():
            parameter.zero_()
    assert torch.equal(other(*tokens([5]), prompts), before)


@families
def test_lm_head_is_tied_and_has_no_copy_of_the_embeddings(save_tiny, tokens, family) -> None:
    plm = load_plm(PLMConfig(path=save_tiny(family)))
    names = [name for name, _ in plm.lm_head.named_parameters(prefix="lm_head")]
    assert not any("decoder" in name or "embeddings" in name for name in names)
    assert {name for name, _ in plm.named_parameters()} == {*names, *(name for name, _ in plm.backbone.named_parameters(prefix="backbone"))}
    assert plm.state_dict().keys() == {name for name, _ in plm.named_parameters()}
    hidden = plm(*tokens([6]))[0]
    plm.lm_logits(hidden).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in plm.parameters())


def test_no_target_leaves_zero_gradients(save_tiny, tokens) -> None:
    plm = load_plm(PLMConfig(path=save_tiny("bert")))
    hidden = plm(*tokens([6]))
    plm.lm_logits(hidden[torch.zeros(1, 6, dtype=torch.bool)]).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in plm.parameters())


@families
def test_num_layers_keeps_the_first_layers(save_tiny, tokens, family) -> None:
    path = save_tiny(family)
    whole, cut = load_plm(PLMConfig(path=path)).eval(), load_plm(PLMConfig(path=path, num_layers=2)).eval()
    assert (whole.num_layers, cut.num_layers) == (3, 2)
    for name, tensor in cut.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    assert cut.config_dict()["num_hidden_layers"] == 2


@families
def test_config_dict_rebuilds_the_architecture(save_tiny, tokens, family) -> None:
    config = PLMConfig(path=save_tiny(family), num_layers=2, attn_implementation="eager")
    plm = load_plm(config).eval()
    described = json.loads(json.dumps(plm.config_dict()))
    assert config.path not in json.dumps(described)
    rebuilt = plm_from_config(described, config.model_copy(update={"path": None})).eval()
    rebuilt.load_state_dict(plm.state_dict())
    prompts = random_prompts(plm, 1)
    assert torch.equal(rebuilt(*tokens([5]), prompts), plm(*tokens([5]), prompts))


def test_random_init_reads_no_weights_and_follows_the_seed(save_tiny) -> None:
    path = save_tiny("bert")
    trained = load_plm(PLMConfig(path=path))
    os.unlink(f"{path}/model.safetensors")
    config = PLMConfig(path=path, random_init=True)
    check_plm(config)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(load_plm(config).backbone.embeddings.word_embeddings.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], trained.backbone.embeddings.word_embeddings.weight)


@families
def test_a_checkpoint_without_lm_head_gets_a_fresh_one_from_the_seed(save_tiny, family) -> None:
    path = save_tiny(family)
    plain = AutoModelForMaskedLM.from_pretrained(path)
    shutil.rmtree(path)
    plain.base_model.save_pretrained(path)
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        plm = load_plm(PLMConfig(path=path))
        heads.append(dict(plm.lm_head.named_parameters(prefix="lm_head")))
    name = next(name for name in heads[0] if name.endswith("dense.weight"))
    assert torch.equal(heads[0][name], heads[1][name])
    assert not torch.equal(heads[0][name], heads[2][name])
    assert torch.equal(plm.backbone.embeddings.word_embeddings.weight, plain.get_input_embeddings().weight)


def test_frozen_stays_in_eval_mode_and_passes_gradients_to_prompts(save_tiny, tokens) -> None:
    path = save_tiny("bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    plm = load_plm(PLMConfig(path=path, gradient_checkpointing=True), lm_head=False)
    prompts = random_prompts(plm, 1)
    plm.freeze()
    plm.train()
    hidden = plm(*tokens([6]), prompts)
    assert torch.equal(hidden, plm.eval()(*tokens([6]), prompts)), "dropout is on"
    hidden.sum().backward()
    assert prompts.grad.any()
    assert all(parameter.grad is None for parameter in plm.parameters())


def _without_config(path: str) -> None:
    os.unlink(f"{path}/config.json")


def _broken_config(path: str) -> None:
    Path(path, "config.json").write_text("{")


def _other_family(path: str) -> None:
    Path(path, "config.json").write_text('{"model_type": "t5"}')


def _without_weights(path: str) -> None:
    os.unlink(f"{path}/model.safetensors")


def _pickled_weights(path: str) -> None:
    os.rename(f"{path}/model.safetensors", f"{path}/pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (_without_config, r"no config\.json"),
        (_broken_config, "not valid JSON"),
        (_other_family, "model_type='t5'.*known: bert, roberta"),
        (_without_weights, r"no weights; put model\.safetensors"),
        (_pickled_weights, r"pytorch_model\.bin\) are a pickle"),
    ],
)
def test_unusable_folder_is_refused_in_one_line(save_tiny, spoil, message) -> None:
    config = PLMConfig(path=save_tiny("bert"))
    check_plm(config)
    spoil(config.path)
    for call in (check_plm, load_plm):
        with pytest.raises(ConfigError, match=message) as caught:
            call(config)
        assert "\n" not in str(caught.value)


def test_unset_path_and_too_many_layers_are_refused(save_tiny) -> None:
    path = save_tiny("bert")
    for call in (check_plm, load_plm):
        with pytest.raises(ConfigError, match=r"plm\.path is not set"):
            call(PLMConfig())
        with pytest.raises(ConfigError, match=r"plm\.num_layers=4.*has 3 layers"):
            call(PLMConfig(path=path, num_layers=4))


@pytest.mark.parametrize("damage", ["cut off", "layer missing"])
def test_damaged_weights_are_refused(save_tiny, damage) -> None:
    path = save_tiny("bert", num_hidden_layers=2)
    if damage == "cut off":
        os.truncate(f"{path}/model.safetensors", 1000)
    else:
        config = json.loads(Path(path, "config.json").read_text())
        Path(path, "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match="can't be loaded" if damage == "cut off" else r"lacks 16 tensors.*encoder\.layer\.2"):
        load_plm(PLMConfig(path=path))


def test_hub_name_out_of_reach_is_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/no-such-model", "not a name!"):
        with pytest.raises(ConfigError, match=r"not in the local Hugging Face cache.*give its folder"):
            check_plm(PLMConfig(path=name))


@families
def test_text_longer_than_the_position_table_is_refused(save_tiny, tokens, family) -> None:
    plm = load_plm(PLMConfig(path=save_tiny(family)))
    plm(*tokens([plm.max_tokens]))
    with pytest.raises(DataError, match=f"at most {plm.max_tokens}"):
        plm(*tokens([plm.max_tokens + 1]))


@pytest.mark.skipif(MINILM is None, reason="CLICKPROMPT_MINILM names no folder with MiniLM's weights")
@pytest.mark.parametrize("num_layers", [None, 2])
def test_real_minilm_weights(num_layers: int | None) -> None:
    plm = load_plm(PLMConfig(path=MINILM, num_layers=num_layers)).double().eval()
    assert (plm.hidden_size, plm.num_layers, plm.vocab_size) == (384, num_layers or 6, 30522)
    input_ids = torch.randint(1000, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 7:] = 0
    prompts = random_prompts(plm, 2)
    text = attention_mask.bool()
    expected = naive_eq7(plm, input_ids, attention_mask, prompts)[text]
    torch.testing.assert_close(plm(input_ids, attention_mask, prompts)[text], expected, rtol=0, atol=1e-6)

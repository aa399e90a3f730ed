"""The click's logit by the LM head: against a loop over rows, and what finetuning takes over."""

import pytest
import torch

from clickprompt.config import load_config
from clickprompt.errors import ConfigError
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import load_matching, unique_tensors
from clickprompt.models.parameter_groups import trainable_by_group
from clickprompt.models.plm_families import PLM_FAMILIES
from tests.support.layouts import made_up

SIZES = [5, 3, 4]
FIELD_IDS = torch.tensor([[0, 1, 2], [4, 2, 3], [1, 0, 0]])
SMALL = ["ctr.embedding_dim=4", "ctr.hidden_dim=8", "ctr.num_layers=2", "prompt.num_prompts=2", "seed=3"]
MASKED = sorted(name for name, family in PLM_FAMILIES.items() if family.lm_kind == "masked")
POSITIONS, NO, YES = torch.tensor([4, 1, 2]), 7, 31


def config_of(path: str, *overrides: str):
    return load_config(None, [f"plm.path={path}", *SMALL, "plm.click_text=true", *overrides])


def inputs(tokens):
    return FIELD_IDS, *tokens([6, 4, 5]), POSITIONS, torch.tensor([NO, YES])


def shaken(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("depth", ["layerwise", "input"])
@pytest.mark.parametrize("last_layer", ["full", "targets"])
@pytest.mark.parametrize("family", MASKED)
@pytest.mark.sampled
def test_logit_is_yes_less_no_at_the_clicks_mask(save_tiny, tokens, family, last_layer, depth, tied) -> None:
    path = save_tiny(family, tie_word_embeddings=tied)
    settings = config_of(path, f"plm.last_layer={last_layer}", f"prompt.prompt_depth={depth}")
    model = shaken(build_model(settings, made_up(SIZES), objective="with_plm").double().eval())
    field_ids, input_ids, attention_mask, positions, answers = inputs(tokens)
    ctr_logits, plm_logits = model.tower_logits(field_ids, input_ids, attention_mask, positions, answers)
    plain = build_model(
        config_of(path, f"prompt.prompt_depth={depth}"), made_up(SIZES), objective="with_plm"
    ).double()
    load_matching(plain.eval(), unique_tensors(model))
    q = plain.ctr.interaction_vector(field_ids)
    for row, length in enumerate([6, 4, 5]):
        some = slice(row, row + 1)
        hidden = plain.plm(
            input_ids[some, :length], attention_mask[some, :length], plain.prompt_projector(q[some])
        )
        logits = plain.plm.lm_logits(hidden[0, positions[row]][None])[0]
        torch.testing.assert_close(plm_logits[row], logits[YES] - logits[NO])
    assert plm_logits.abs().min() > 1e-3
    alpha = model.ctr_weight
    torch.testing.assert_close(
        model(field_ids, input_ids, attention_mask, positions, answers),
        alpha * ctr_logits + (1 - alpha) * plm_logits,
    )


def test_the_last_layer_is_computed_there_alone(save_tiny, tokens) -> None:
    model = build_model(
        config_of(save_tiny("bert"), "plm.last_layer=targets"), made_up(SIZES), objective="with_plm"
    )
    widths = []
    model.plm.layers[-1].register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    model(*inputs(tokens))
    assert widths == [1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("num_prompts", [0, 2])
def test_every_parameter_gets_a_gradient_and_is_in_one_group(
    save_tiny, tokens, num_prompts, tied, frozen, dtype
) -> None:
    settings = config_of(
        save_tiny("bert", tie_word_embeddings=tied),
        f"prompt.num_prompts={num_prompts}",
        f"plm.dtype={dtype}",
        *(["finetune.lr.plm=0"] if frozen else []),
    )
    model = build_model(settings, made_up(SIZES), objective="with_plm").train()
    assert model.click_head is None
    logits = model(*inputs(tokens))
    assert logits.dtype == (torch.float32 if num_prompts or dtype == "float32" else logits.dtype)
    logits.float().square().sum().backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    groups = trainable_by_group(model)
    assert sum(map(len, groups.values())) == len(trainable)
    heads = {name for name, _ in groups["heads"]}
    assert heads == {name for name in trainable if name.startswith("plm.lm_head.")}
    assert ("plm.lm_head.weight" in heads) == (not tied)
    assert bool(groups["plm"]) == (not frozen)
    # Of the vocabulary's own parameters only those of the two answers
    touched = torch.zeros(50, dtype=torch.bool)
    touched[[NO, YES]] = True
    bias = model.plm.lm_head.bias
    assert (bias.grad != 0).tolist() == touched.tolist()
    if not tied:
        assert (model.plm.lm_head.weight.grad != 0).any(1).tolist() == touched.tolist()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_starts_of_every_kind(save_tiny, before, after) -> None:
    """The LM head is taken over wherever it is kept, whether or not pretraining's text had the click."""
    path = save_tiny("bert")
    pretrained = shaken(
        build_model(config_of(path, f"plm.click_text={before}"), made_up(SIZES), objective="pretrain")
    )
    model = build_model(config_of(path, f"plm.click_text={after}"), made_up(SIZES), objective="with_plm")
    fresh = load_matching(model, unique_tensors(pretrained))
    heads = [f"click_head.{layer}.{part}" for layer in ("dense", "prediction") for part in ("weight", "bias")]
    own = {"ctr.prediction.weight", "ctr.prediction.bias", "ctr_weight"}
    assert set(fresh) == own | set([] if after else heads)
    assert (model.plm.lm_head is not None) == after
    theirs = pretrained.state_dict()
    assert all(
        torch.equal(one, theirs[name]) for name, one in model.state_dict().items() if name not in fresh
    )
    # One finetuning starts from another of either kind
    other = build_model(config_of(path, f"plm.click_text={not after}"), made_up(SIZES), objective="with_plm")
    assert all("head" in name for name in load_matching(other, unique_tensors(model)))


def test_without_a_pretraining_the_checkpoints_own_lm_head_is_the_start(save_tiny) -> None:
    path = save_tiny("bert")
    model = build_model(config_of(path), made_up(SIZES), objective="with_plm")
    expected = build_model(config_of(path, "plm.click_text=false"), made_up(SIZES), objective="pretrain")
    heads = dict(model.plm.lm_head.named_parameters())
    assert heads
    for name, tensor in expected.plm.lm_head.named_parameters():
        assert torch.equal(heads[name], tensor)


def test_a_model_and_a_text_that_do_not_fit_are_noticed(save_tiny, tokens) -> None:
    path, everything = save_tiny("bert"), inputs(tokens)
    with pytest.raises(AssertionError, match="the text lacks the click"):
        build_model(config_of(path), made_up(SIZES), objective="with_plm")(*everything[:3])
    without = build_model(config_of(path, "plm.click_text=false"), made_up(SIZES), objective="with_plm")
    with pytest.raises(AssertionError, match="the text ends with the click"):
        without(*everything)


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
@pytest.mark.parametrize(
    "family", sorted(name for name, family in PLM_FAMILIES.items() if family.lm_kind != "masked")
)
def test_other_kinds_are_refused_by_name(save_tiny, family, objective) -> None:
    kind = PLM_FAMILIES[family].lm_kind
    message = (
        rf"plm\.click_text=true: a {family} \({kind} language modelling\) fills in no \[MASK\]; use a masked"
    )
    with pytest.raises(ConfigError, match=message):
        build_model(config_of(save_tiny(family)), made_up(SIZES), objective=objective)


def test_pooling_would_have_no_effect() -> None:
    with pytest.raises(ConfigError, match="pooling=mean is the click head's, and with click_text=true"):
        load_config(None, ["plm.click_text=true", "plm.pooling=mean"])

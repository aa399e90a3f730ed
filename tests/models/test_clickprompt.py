"""The whole model: Eq. 9 and 10, what each objective trains, seeds, starting from a pretraining's tensors."""

import pytest
import torch

from clickprompt.config import Config, load_config
from clickprompt.errors import ConfigError
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import load_matching, unique_tensors
from clickprompt.models.parameter_groups import trainable_by_group
from clickprompt.models.plm_families import PLM_FAMILIES
from tests.support.layouts import made_up

SIZES = [5, 3, 4]
FIELD_IDS = torch.tensor([[0, 1, 2], [4, 2, 3], [1, 0, 0]])


SMALL = ["ctr.embedding_dim=4", "ctr.hidden_dim=8", "ctr.num_layers=2", "prompt.num_prompts=2", "seed=3"]


@pytest.fixture
def config(save_tiny) -> Config:
    return load_config(None, [f"plm.path={save_tiny('bert')}", *SMALL])


def change(config: Config, *overrides: str) -> Config:
    return load_config(None, [f"plm.path={config.plm.path}", *SMALL, *overrides])


def loss_of(model, objective: str, tokens) -> torch.Tensor:
    input_ids, attention_mask = tokens([6, 4, 5])
    if objective == "pretrain":
        target_mask = (torch.arange(6) == 2).expand(3, 6)
        return torch.nn.functional.cross_entropy(
            model.masked_lm_logits(FIELD_IDS, input_ids, attention_mask, target_mask), input_ids[:, 2]
        )
    return model(FIELD_IDS, input_ids, attention_mask).square().sum()


@pytest.mark.parametrize("objective", ["pretrain", "with_plm", "without_plm"])
@pytest.mark.parametrize("backbone", ["dcnv2", "dnn", "autoint"])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_gets_a_gradient_and_is_in_one_group(
    config, tokens, objective, backbone, frozen
) -> None:
    rates = ["pretrain.lr.plm=0", "finetune.lr.plm=0"] if frozen else []
    model = build_model(
        change(config, f"ctr.backbone={backbone}", *rates), made_up(SIZES), objective=objective
    ).train()
    loss_of(model, objective, tokens).backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert all(
        name.startswith("plm.backbone.") for name, p in model.named_parameters() if not p.requires_grad
    )

    groups = trainable_by_group(model)
    listed = [item for group in groups.values() for item in group]
    assert len(listed) == len(trainable)
    assert all(trainable[name] is parameter for name, parameter in listed)
    filled = {
        "pretrain": {"ctr", "projector", "plm", "heads"},
        "with_plm": {"ctr", "projector", "plm", "heads"},
        "without_plm": {"ctr"},
    }
    assert {key for key, group in groups.items() if group} == filled[objective] - (
        {"plm"} if frozen else set()
    )


def test_groups_by_name(config) -> None:
    model = build_model(config, made_up(SIZES), objective="with_plm")
    groups = {key: {name for name, _ in group} for key, group in trainable_by_group(model).items()}
    assert "ctr_weight" in groups["ctr"]
    assert all(name.startswith("ctr") for name in groups["ctr"])
    assert groups["heads"] == {
        f"click_head.{layer}.{part}" for layer in ("dense", "prediction") for part in ("weight", "bias")
    }
    heads = {
        name
        for name, _ in trainable_by_group(build_model(config, made_up(SIZES), objective="pretrain"))["heads"]
    }
    assert heads
    assert all(name.startswith("plm.lm_head.") for name in heads)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_eq9(config, tokens, pooling) -> None:
    """α weighs the CTR logit, and learns."""
    model = build_model(change(config, f"plm.pooling={pooling}"), made_up(SIZES), objective="with_plm").eval()
    input_ids, attention_mask = tokens([6, 4, 5])
    q = model.ctr.interaction_vector(FIELD_IDS)
    hidden = model.plm(input_ids, attention_mask, model.prompt_projector(q))
    pooled = (
        hidden[:, 0]
        if pooling == "cls"
        else torch.stack([hidden[i, :n].mean(0) for i, n in enumerate([6, 4, 5])])
    )
    ctr_logits, plm_logits = model.ctr.logits(FIELD_IDS, q), model.click_head(pooled)
    assert model.ctr_weight.item() == 0.5
    for alpha, expected in ((1.0, ctr_logits), (0.0, plm_logits), (0.3, 0.3 * ctr_logits + 0.7 * plm_logits)):
        with torch.no_grad():
            model.ctr_weight.fill_(alpha)
        torch.testing.assert_close(model(FIELD_IDS, input_ids, attention_mask), expected)
    model(FIELD_IDS, input_ids, attention_mask).sum().backward()
    torch.testing.assert_close(model.ctr_weight.grad.squeeze(), (ctr_logits - plm_logits).sum())


def test_eq10_reads_no_text(config) -> None:
    model = build_model(config, made_up(SIZES), objective="without_plm")
    assert torch.equal(model(FIELD_IDS), model.ctr(FIELD_IDS))
    assert model.plm is None
    assert model.ctr_weight is None


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_recomputes_layers_and_changes_no_gradient(
    config, tokens, objective, frozen
) -> None:
    rates = ["pretrain.lr.plm=0", "finetune.lr.plm=0"] if frozen else []
    results = []
    for checkpointing, computed in ((False, 3), (True, 6), (2, 5)):  # 2: the first and the third layer
        changed = change(config, f"plm.gradient_checkpointing={checkpointing}", *rates)
        model = build_model(changed, made_up(SIZES), objective=objective).double().train()
        calls = []
        for module in model.plm.backbone.modules():
            if type(module).__name__ == "BertIntermediate":
                module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss_of(model, objective, tokens).backward()
        assert len(calls) == computed
        results.append(
            {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        )
    for recomputed in results[1:]:
        for name, gradient in results[0].items():
            torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
def test_one_ctr_forward(config, tokens, objective) -> None:
    model = build_model(config, made_up(SIZES), objective=objective)
    calls = []
    model.ctr.backbone.register_forward_hook(lambda *_: calls.append(1))
    loss_of(model, objective, tokens)
    assert len(calls) == 1


def test_masked_lm_logits_are_those_of_the_masked_positions(config, tokens) -> None:
    model = build_model(config, made_up(SIZES), objective="pretrain").eval()
    input_ids, attention_mask = tokens([6, 4, 5])
    targets = torch.zeros(3, 6, dtype=torch.bool)
    targets[0, 3] = targets[2, 1] = targets[2, 4] = True
    hidden = model.plm(
        input_ids, attention_mask, model.prompt_projector(model.ctr.interaction_vector(FIELD_IDS))
    )
    expected = model.plm.lm_logits(torch.stack([hidden[0, 3], hidden[2, 1], hidden[2, 4]]))
    torch.testing.assert_close(
        model.masked_lm_logits(FIELD_IDS, input_ids, attention_mask, targets), expected
    )
    nothing = model.masked_lm_logits(FIELD_IDS, input_ids, attention_mask, torch.zeros_like(targets))
    assert nothing.shape == (0, 50)
    nothing.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_without_prompts_the_towers_are_summed_and_pretraining_has_no_ctr_tower(config, tokens) -> None:
    model = build_model(change(config, "prompt.num_prompts=0"), made_up(SIZES), objective="with_plm").eval()
    assert model.prompt_projector is None
    assert model.ctr_weight is None
    input_ids, attention_mask = tokens([6, 4, 5])
    plm_logits = model.click_head(model.plm(input_ids, attention_mask)[:, 0])
    torch.testing.assert_close(model(FIELD_IDS, input_ids, attention_mask), model.ctr(FIELD_IDS) + plm_logits)
    loss_of(model, "with_plm", tokens).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model = build_model(change(config, "prompt.num_prompts=0"), made_up(SIZES), objective="pretrain")
    assert model.ctr is None
    loss_of(model, "pretrain", tokens).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("with_prompts", [True, False])
@pytest.mark.parametrize("pretrained", [True, False])
def test_the_four_variants_of_table_5_are_config_values(config, tokens, with_prompts, pretrained) -> None:
    """ClickPrompt, w/o Prompt, w/o Pretrain, w/o Both: `finetune.with_prompts`, and whether there is a
    `finetune.init`.
    """
    model = build_model(
        change(config, f"finetune.with_prompts={with_prompts}"), made_up(SIZES), objective="with_plm"
    )
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if pretrained:
        trained = build_model(change(config, "seed=9"), made_up(SIZES), objective="pretrain")
        load_matching(model, trained.state_dict())
        assert torch.equal(model.ctr.embedding.weight, trained.ctr.embedding.weight)
        assert torch.equal(
            model.plm.backbone.embeddings.word_embeddings.weight,
            trained.plm.backbone.embeddings.word_embeddings.weight,
        )
    else:
        assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())
    assert (model.prompt_projector is not None) == with_prompts
    assert (model.ctr_weight is not None) == with_prompts
    seen = []
    model.plm.backbone.register_forward_pre_hook(
        lambda *call: seen.append(call[2].get("prompt_fusion")), with_kwargs=True
    )
    loss_of(model, "with_plm", tokens).backward()
    assert [fusion is not None for fusion in seen] == [with_prompts]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("family", sorted(PLM_FAMILIES))
@pytest.mark.parametrize(
    ("depth", "injection"), [("layerwise", "hidden"), ("layerwise", "key_value"), ("input", "hidden")]
)
@pytest.mark.sampled
def test_every_family_trains_in_every_objective(save_tiny, tokens, family, depth, injection) -> None:
    """Eq. 6–9 end to end: each parameter gets a gradient, the export's tensors rebuild the model, BART's tied
    tables are stored once.
    """
    prompt = [f"prompt.prompt_depth={depth}", f"prompt.prompt_injection={injection}"]
    settings = load_config(None, [f"plm.path={save_tiny(family)}", *SMALL, *prompt])
    for objective in ("pretrain", "with_plm"):
        model = build_model(settings, made_up(SIZES), objective=objective)
        loss_of(model, objective, tokens).backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        layers, width = model.plm.prompt_shape
        assert model.prompt_projector(torch.zeros(2, model.ctr.interaction_dim)).shape == (
            2,
            layers,
            2,
            width,
        )
        stored = {name: tensor.clone() for name, tensor in unique_tensors(model).items()}
        assert len(stored) == len(dict(model.named_parameters())) + len(
            [b for n, b in model.named_buffers() if n in model.state_dict()]
        )
        again = build_model(settings, made_up(SIZES), objective=objective, plm_config=model.plm.config_dict())
        load_matching(again, stored)
        torch.testing.assert_close(
            loss_of(again.eval(), objective, tokens), loss_of(model.eval(), objective, tokens)
        )


@pytest.mark.parametrize(("family", "default"), [("bert", "cls"), ("gpt2", "last"), ("bart", "last")])
def test_default_pooling_is_the_family_s(save_tiny, tokens, family, default) -> None:
    model = build_model(
        load_config(None, [f"plm.path={save_tiny(family)}", *SMALL]), made_up(SIZES), objective="with_plm"
    ).eval()
    assert model.pooling == default
    input_ids, attention_mask = tokens([6, 4, 5])
    hidden = model.plm(
        input_ids, attention_mask, model.prompt_projector(model.ctr.interaction_vector(FIELD_IDS))
    )
    pooled = (
        hidden[:, 0] if default == "cls" else torch.stack([hidden[i, n - 1] for i, n in enumerate([6, 4, 5])])
    )
    expected = 0.5 * model.ctr(FIELD_IDS) + 0.5 * model.click_head(pooled)
    torch.testing.assert_close(model(FIELD_IDS, input_ids, attention_mask), expected)


def test_a_decoder_s_first_token_is_no_pooling(save_tiny) -> None:
    with pytest.raises(ConfigError, match=r"plm\.pooling=cls: the first token of a gpt2 sees no other"):
        build_model(
            load_config(None, [f"plm.path={save_tiny('gpt2')}", "plm.pooling=cls", *SMALL]),
            made_up(SIZES),
            objective="with_plm",
        )


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
def test_a_bfloat16_plm_under_float32_towers(config, tokens, objective) -> None:
    model = build_model(change(config, "plm.dtype=bfloat16"), made_up(SIZES), objective=objective)
    assert model.plm.backbone.embeddings.word_embeddings.weight.dtype == torch.bfloat16
    assert model.ctr.embedding.weight.dtype == torch.float32
    loss = loss_of(model, objective, tokens)
    reference = loss_of(build_model(config, made_up(SIZES), objective=objective), objective, tokens)
    torch.testing.assert_close(loss.float(), reference, rtol=0.1, atol=0.1)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("objective", "rate"), [("pretrain", "pretrain.lr.plm=0"), ("with_plm", "finetune.lr.plm=0")]
)
def test_learning_rate_zero_freezes_the_plm(config, save_tiny, objective, rate) -> None:
    assert build_model(config, made_up(SIZES), objective=objective).plm.backbone.training
    model = build_model(change(config, rate), made_up(SIZES), objective=objective).train()
    assert not any(
        parameter.requires_grad for _, parameter in model.plm.backbone.named_parameters(prefix="backbone")
    )
    assert not any(
        module.training for module in model.plm.backbone.modules() if isinstance(module, torch.nn.Dropout)
    )
    assert model.ctr.training


def test_weights_follow_the_seed_alone(config) -> None:
    torch.manual_seed(11)
    first = build_model(config, made_up(SIZES), objective="with_plm").state_dict()
    state = torch.get_rng_state()
    second = build_model(config, made_up(SIZES), objective="with_plm").state_dict()
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state moved"
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_model(change(config, "seed=4"), made_up(SIZES), objective="with_plm").state_dict()
    assert not torch.equal(first["ctr.embedding.weight"], other["ctr.embedding.weight"])
    assert not torch.equal(first["prompt_projector.hidden_weight"], other["prompt_projector.hidden_weight"])

    alone = build_model(config, made_up(SIZES), objective="without_plm").state_dict()
    assert all(torch.equal(alone[name], first[name]) for name in alone)
    pretrain = build_model(config, made_up(SIZES), objective="pretrain").state_dict()
    assert all(torch.equal(pretrain[name], first[name]) for name in pretrain.keys() & first.keys())


@pytest.mark.parametrize("objective", ["with_plm", "without_plm"])
def test_finetuning_starts_from_a_pretraining(config, objective) -> None:
    pretrained = build_model(config, made_up(SIZES), objective="pretrain")
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(1)
    model = build_model(config, made_up(SIZES), objective=objective)
    fresh = load_matching(model, pretrained.state_dict())
    heads = [f"click_head.{layer}.{part}" for layer in ("dense", "prediction") for part in ("weight", "bias")]
    expected = {
        "ctr.prediction.weight",
        "ctr.prediction.bias",
        *(["ctr_weight", *heads] if objective == "with_plm" else []),
    }
    assert set(fresh) == expected
    for name, tensor in model.state_dict().items():
        if name not in fresh:
            assert torch.equal(tensor, pretrained.state_dict()[name]), name


def test_a_pretraining_of_another_shape_is_refused_before_anything_is_copied(config) -> None:
    model = build_model(config, made_up(SIZES), objective="with_plm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = build_model(
        change(config, "prompt.num_prompts=3", "seed=9"), made_up(SIZES), objective="pretrain"
    ).state_dict()
    with pytest.raises(
        ConfigError, match=r"prompt_projector\.\w+: the pretrained tensor has shape \(9, .*this model's \(6, "
    ):
        load_matching(model, other)
    other = build_model(
        change(config, "ctr.backbone=autoint", "seed=9"), made_up(SIZES), objective="pretrain"
    ).state_dict()
    with pytest.raises(ConfigError, match="not in this model's CTR tower"):
        load_matching(model, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_export_needs_no_plm_path(config, tokens) -> None:
    model = build_model(config, made_up(SIZES), objective="with_plm").eval()
    rebuilt = build_model(
        change(config, "plm.path=/gone"),
        made_up(SIZES),
        objective="with_plm",
        plm_config=model.plm.config_dict(),
    ).eval()
    rebuilt.load_state_dict(model.state_dict())
    input_ids, attention_mask = tokens([6, 4, 5])
    assert torch.equal(
        rebuilt(FIELD_IDS, input_ids, attention_mask), model(FIELD_IDS, input_ids, attention_mask)
    )

"""The whole model: Eq. 9 and 10, what each objective trains, seeds, starting from a pretraining's tensors."""

import pytest
import torch

from clickprompt.config import Config, load_config
from clickprompt.errors import ConfigError
from clickprompt.models.clickprompt import build_model, load_matching

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
        return torch.nn.functional.cross_entropy(model.masked_lm_logits(FIELD_IDS, input_ids, attention_mask, target_mask), input_ids[:, 2])
    return model(FIELD_IDS, input_ids, attention_mask).square().sum()


@pytest.mark.parametrize("objective", ["pretrain", "with_plm", "without_plm"])
@pytest.mark.parametrize("backbone", ["dcnv2", "dnn", "autoint"])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_gets_a_gradient_and_is_in_one_group(config, tokens, objective, backbone, frozen) -> None:
    rates = ["pretrain.lr.plm=0", "finetune.lr.plm=0"] if frozen else []
    model = build_model(change(config, f"ctr.backbone={backbone}", *rates), SIZES, objective=objective).train()
    loss_of(model, objective, tokens).backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert all(name.startswith("plm.backbone.") for name, p in model.named_parameters() if not p.requires_grad)

    groups = model.parameter_groups()
    listed = [item for group in groups.values() for item in group]
    assert len(listed) == len(trainable)
    assert all(trainable[name] is parameter for name, parameter in listed)
    filled = {"pretrain": {"ctr", "projector", "plm", "heads"}, "with_plm": {"ctr", "projector", "plm", "heads"}, "without_plm": {"ctr"}}
    assert {key for key, group in groups.items() if group} == filled[objective] - ({"plm"} if frozen else set())


def test_groups_by_name(config) -> None:
    model = build_model(config, SIZES, objective="with_plm")
    groups = {key: {name for name, _ in group} for key, group in model.parameter_groups().items()}
    assert "ctr_weight" in groups["ctr"]
    assert all(name.startswith("ctr") for name in groups["ctr"])
    assert groups["heads"] == {f"click_head.{layer}.{part}" for layer in ("dense", "prediction") for part in ("weight", "bias")}
    heads = {name for name, _ in build_model(config, SIZES, objective="pretrain").parameter_groups()["heads"]}
    assert heads
    assert all(name.startswith("plm.lm_head.") for name in heads)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_eq9(config, tokens, pooling) -> None:
    """α weighs the CTR logit, and learns."""
    model = build_model(change(config, f"plm.pooling={pooling}"), SIZES, objective="with_plm").eval()
    input_ids, attention_mask = tokens([6, 4, 5])
    q = model.ctr.interaction_vector(FIELD_IDS)
    hidden = model.plm(input_ids, attention_mask, model.prompt_projector(q))
    pooled = hidden[:, 0] if pooling == "cls" else torch.stack([hidden[i, :n].mean(0) for i, n in enumerate([6, 4, 5])])
    ctr_logits, plm_logits = model.ctr.logits(q), model.click_head(pooled)
    assert model.ctr_weight.item() == 0.5
    for alpha, expected in ((1.0, ctr_logits), (0.0, plm_logits), (0.3, 0.3 * ctr_logits + 0.7 * plm_logits)):
        with torch.no_grad():
            model.ctr_weight.fill_(alpha)
        torch.testing.assert_close(model(FIELD_IDS, input_ids, attention_mask), expected)
    model(FIELD_IDS, input_ids, attention_mask).sum().backward()
    torch.testing.assert_close(model.ctr_weight.grad.squeeze(), (ctr_logits - plm_logits).sum())


def test_eq10_reads_no_text(config) -> None:
    model = build_model(config, SIZES, objective="without_plm")
    assert torch.equal(model(FIELD_IDS), model.ctr(FIELD_IDS))
    assert model.plm is None
    assert model.ctr_weight is None


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_recomputes_layers_and_changes_no_gradient(config, tokens, objective, frozen) -> None:
    rates = ["pretrain.lr.plm=0", "finetune.lr.plm=0"] if frozen else []
    results = []
    for checkpointing in (False, True):
        changed = change(config, f"plm.gradient_checkpointing={checkpointing}", *rates)
        model = build_model(changed, SIZES, objective=objective).double().train()
        calls = []
        for module in model.plm.backbone.modules():
            if type(module).__name__ == "BertIntermediate":
                module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss_of(model, objective, tokens).backward()
        assert len(calls) == (6 if checkpointing else 3)
        results.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
def test_one_ctr_forward(config, tokens, objective) -> None:
    model = build_model(config, SIZES, objective=objective)
    calls = []
    model.ctr.backbone.register_forward_hook(lambda *_: calls.append(1))
    loss_of(model, objective, tokens)
    assert len(calls) == 1


def test_masked_lm_logits_are_those_of_the_masked_positions(config, tokens) -> None:
    model = build_model(config, SIZES, objective="pretrain").eval()
    input_ids, attention_mask = tokens([6, 4, 5])
    targets = torch.zeros(3, 6, dtype=torch.bool)
    targets[0, 3] = targets[2, 1] = targets[2, 4] = True
    hidden = model.plm(input_ids, attention_mask, model.prompt_projector(model.ctr.interaction_vector(FIELD_IDS)))
    expected = model.plm.lm_logits(torch.stack([hidden[0, 3], hidden[2, 1], hidden[2, 4]]))
    torch.testing.assert_close(model.masked_lm_logits(FIELD_IDS, input_ids, attention_mask, targets), expected)
    nothing = model.masked_lm_logits(FIELD_IDS, input_ids, attention_mask, torch.zeros_like(targets))
    assert nothing.shape == (0, 50)
    nothing.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_no_prompts(config, tokens) -> None:
    """K = 0: Eq. 9 over a plain PLM; PA-MLM would train no CTR tower."""
    model = build_model(change(config, "prompt.num_prompts=0"), SIZES, objective="with_plm")
    assert model.prompt_projector is None
    loss_of(model, "with_plm", tokens).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ConfigError, match=r"prompt\.num_prompts=0"):
        build_model(change(config, "prompt.num_prompts=0"), SIZES, objective="pretrain")


@pytest.mark.parametrize(("objective", "rate"), [("pretrain", "pretrain.lr.plm=0"), ("with_plm", "finetune.lr.plm=0")])
def test_learning_rate_zero_freezes_the_plm(config, save_tiny, objective, rate) -> None:
    assert build_model(config, SIZES, objective=objective).plm.backbone.training
    model = build_model(change(config, rate), SIZES, objective=objective).train()
    assert not any(parameter.requires_grad for _, parameter in model.plm.backbone.named_parameters(prefix="backbone"))
    assert not any(module.training for module in model.plm.backbone.modules() if isinstance(module, torch.nn.Dropout))
    assert model.ctr.training


def test_weights_follow_the_seed_alone(config) -> None:
    torch.manual_seed(11)
    first = build_model(config, SIZES, objective="with_plm").state_dict()
    state = torch.get_rng_state()
    second = build_model(config, SIZES, objective="with_plm").state_dict()
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state moved"
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_model(change(config, "seed=4"), SIZES, objective="with_plm").state_dict()
    assert not torch.equal(first["ctr.embedding.weight"], other["ctr.embedding.weight"])
    assert not torch.equal(first["prompt_projector.hidden_weight"], other["prompt_projector.hidden_weight"])

    alone = build_model(config, SIZES, objective="without_plm").state_dict()
    assert all(torch.equal(alone[name], first[name]) for name in alone)
    pretrain = build_model(config, SIZES, objective="pretrain").state_dict()
    assert all(torch.equal(pretrain[name], first[name]) for name in pretrain.keys() & first.keys())


@pytest.mark.parametrize("objective", ["with_plm", "without_plm"])
def test_finetuning_starts_from_a_pretraining(config, objective) -> None:
    pretrained = build_model(config, SIZES, objective="pretrain")
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(1)
    model = build_model(config, SIZES, objective=objective)
    fresh = load_matching(model, pretrained.state_dict())
    heads = [f"click_head.{layer}.{part}" for layer in ("dense", "prediction") for part in ("weight", "bias")]
    expected = {"ctr.prediction.weight", "ctr.prediction.bias", *(["ctr_weight", *heads] if objective == "with_plm" else [])}
    assert set(fresh) == expected
    for name, tensor in model.state_dict().items():
        if name not in fresh:
            assert torch.equal(tensor, pretrained.state_dict()[name]), name


def test_a_pretraining_of_another_shape_is_refused_before_anything_is_copied(config) -> None:
    model = build_model(config, SIZES, objective="with_plm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = build_model(change(config, "prompt.num_prompts=3", "seed=9"), SIZES, objective="pretrain").state_dict()
    with pytest.raises(ConfigError, match=r"prompt_projector\.\w+: the pretrained tensor has shape \(9, .*this model's \(6, "):
        load_matching(model, other)
    other = build_model(change(config, "ctr.backbone=autoint", "seed=9"), SIZES, objective="pretrain").state_dict()
    with pytest.raises(ConfigError, match="not in this model's CTR tower"):
        load_matching(model, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_export_needs_no_plm_path(config, tokens) -> None:
    model = build_model(config, SIZES, objective="with_plm").eval()
    rebuilt = build_model(change(config, "plm.path=/gone"), SIZES, objective="with_plm", plm_config=model.plm.config_dict()).eval()
    rebuilt.load_state_dict(model.state_dict())
    input_ids, attention_mask = tokens([6, 4, 5])
    assert torch.equal(rebuilt(FIELD_IDS, input_ids, attention_mask), model(FIELD_IDS, input_ids, attention_mask))

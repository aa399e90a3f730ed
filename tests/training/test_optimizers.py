"""Groups, rates and decays of parameters: the defaults' grouping as a loop, and each option by itself."""

import math

import pytest
import torch
from torch import nn

from clickprompt.config import load_config, replaced
from clickprompt.models.backbones import BACKBONES
from clickprompt.models.build import build_model
from clickprompt.models.parameter_groups import group_of, parameter_groups, trainable_by_group
from clickprompt.training.optimizers import schedule_factor, set_learning_rates
from tests.support.layouts import made_up
from tests.support.tiny_plms import FAMILIES, save_plm

SIZES = [50, 40]
SMALL = {"ctr.embedding_dim": 4, "ctr.hidden_dim": 8, "prompt.num_prompts": 2}


def by_name(model, groups):
    """Parameter's name → its group; each parameter comes once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert len(dict(found)) == len(found) == sum(p.requires_grad for p in model.parameters())
    return dict(found)


@pytest.mark.parametrize("of_tables", [None, 0.0, 0.3])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_tables_decay_as_asked_and_vectors_never(backbone, of_tables):
    changes = {"ctr.backbone": backbone, "finetune.tables_weight_decay": of_tables}
    config = replaced(load_config(None), SMALL | changes)
    model = build_model(config, made_up(SIZES), objective="without_plm")
    groups = by_name(model, parameter_groups(model, config.finetune))
    for name, parameter in model.named_parameters():
        table = parameter.shape[0] == sum(SIZES)
        decay = of_tables if table and of_tables is not None else 0.01
        assert groups[name]["weight_decay"] == (decay if parameter.ndim > 1 else 0), name


@pytest.fixture(params=["bert", "gpt2", "bart"])
def config(request, tmp_path):
    path = save_plm(tmp_path / request.param, request.param)
    return replaced(load_config(None), SMALL | {"plm.path": path})


@pytest.mark.parametrize("changes", [{}, {"pretrain.weight_decay": 0.0, "finetune.weight_decay": 0.0}])
@pytest.mark.parametrize("objective", ["pretrain", "with_plm", "without_plm"])
@pytest.mark.parametrize("backbone", ["dcnv2", "deepfm"])
def test_without_the_options_a_group_has_two_entries_in_the_models_order(
    config, backbone, objective, changes
):
    """ZeRO flattens each entry, so neither the entries nor the order of their parameters may change."""
    config = replaced(config, {"ctr.backbone": backbone, **changes})
    model = build_model(config, made_up(SIZES), objective=objective)
    stage = config.pretrain if objective == "pretrain" else config.finetune
    expected = []
    for group in ("ctr", "projector", "plm", "heads"):
        own = [
            (name, p) for name, p in model.named_parameters() if p.requires_grad and group_of(name) == group
        ]
        decays = [p for name, p in own if stage.weight_decay and p.ndim > 1 and not name.endswith("bias")]
        others = [p for _, p in own if not any(p is one for one in decays)]
        for members, decay in ((decays, stage.weight_decay), (others, 0.0)):
            if members:
                expected.append((group, getattr(stage.lr, group), decay, [id(p) for p in members]))
    found = [
        (group["name"], group["base_lr"], group["weight_decay"], [id(p) for p in group["params"]])
        for group in parameter_groups(model, stage)
    ]
    assert found == expected


def test_tables_and_plm_have_rates_and_decays_of_their_own(config):
    changes = {
        "ctr.backbone": "deepfm",
        "finetune.lr": {"ctr": 1.0, "projector": 2.0, "plm": 3.0, "heads": 4.0, "tables": 5.0},
        "finetune.weight_decay": 0.1,
        "finetune.tables_weight_decay": 0.2,
        "finetune.plm_weight_decay": 0.3,
        "finetune.freeze_tables": 0.25,
    }
    config = replaced(config, changes)
    model = build_model(config, made_up(SIZES), objective="with_plm")
    groups = by_name(model, parameter_groups(model, config.finetune))
    for name, group in groups.items():
        found = (group["base_lr"], group["weight_decay"], group["frozen"])
        if name in ("ctr.embedding.weight", "ctr.linear_terms.weight"):
            assert found == (5.0, 0.2, 0.25)
        elif name.startswith("plm.backbone."):
            assert found[0] == 3.0
            assert found[1] in (0.3, 0.0)
            assert found[2] == 0.0
        else:
            assert found[0] in (1.0, 2.0, 4.0)
            assert found[1] in (0.1, 0.0)
            assert found[2] == 0.0
    assert "ctr.linear_terms.weight" in groups


# Where a family's parameters are, by the names that transformers gives them: (a layer's number, what is above
# all layers); everything else is below
_LAYER_PATHS = {
    "distilbert": ("transformer.layer.",),
    "gpt2": ("h.",),
    "bart": ("encoder.layers.", "decoder.layers."),
    "t5": ("encoder.block.", "decoder.block."),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "modernbert"), ("layers.",)),
}
_ABOVE = {
    "gpt2": "ln_f.",
    "modernbert": "final_norm.",
    "t5": "decoder.final_layer_norm.",
    **dict.fromkeys(("llama", "qwen2", "qwen3"), "norm."),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_of_the_plms_layers(tmp_path, family):
    path = save_plm(tmp_path / family, family)
    changes = {"plm.path": path, "finetune.plm_layer_decay": 0.5, "finetune.lr.plm": 0.32}
    config = replaced(load_config(None), SMALL | changes)
    model = build_model(config, made_up(SIZES), objective="with_plm")
    counts = {"bart": (2, 3), "t5": (2, 3)}.get(family, (3,))
    layers, seen = sum(counts), set()
    for name, group in by_name(model, parameter_groups(model, config.finetune)).items():
        if not name.startswith("plm.backbone."):
            assert group["base_lr"] == 1e-3
            continue
        name = name.removeprefix("plm.backbone.")
        exponent = 0 if name.startswith(_ABOVE.get(family, " ")) else layers
        if name == "encoder.final_layer_norm.weight":
            exponent = counts[1]
        for stack, path in enumerate(_LAYER_PATHS.get(family, ("encoder.layer.",))):
            if name.startswith(path):
                number = sum(counts[:stack]) + int(name.removeprefix(path).split(".")[0])
                exponent = layers - 1 - number
        assert group["base_lr"] == pytest.approx(0.32 * 0.5**exponent), name
        seen.add(exponent)
    assert seen == set(range(layers + 1))


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.21, 3), (0.3, 3), (0.99, 10)])
def test_the_tables_rate_is_0_for_a_share_of_the_steps(share, steps):
    config = replaced(
        load_config(None), SMALL | {"finetune.freeze_tables": share, "finetune.warmup_ratio": 0.2}
    )
    model = build_model(config, made_up(SIZES), objective="without_plm")
    optimizer = torch.optim.AdamW(
        [{**group, "lr": group["base_lr"]} for group in parameter_groups(model, config.finetune)]
    )
    for step in range(10):
        set_learning_rates(optimizer, step, 10, config.finetune)
        factor = schedule_factor(step, 10, config.finetune)
        for name, group in by_name(model, optimizer.param_groups).items():
            moves = step >= steps or name != "ctr.embedding.weight"
            assert group["lr"] == (1e-3 * factor if moves else 0.0), (name, step)


def test_dropout_of_embeddings_is_that_of_their_entries():
    config = replaced(load_config(None), SMALL | {"ctr.embedding_dropout": 0.25, "ctr.backbone": "deepfm"})
    tower = build_model(config, made_up([200, 200]), objective="without_plm").ctr
    assert tower is not None
    seen = []

    class Seeing(nn.Module):
        def forward(self, field_embeddings):
            seen.append(field_embeddings)
            return field_embeddings

    backbone, tower.backbone = tower.backbone, Seeing()
    ids = torch.randint(0, 200, (500, 2))
    plain = tower.embedding(ids)
    tower.train().interaction_vector(ids)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0], torch.where(kept, plain / 0.75, 0.0))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=4 * math.sqrt(0.25 * 0.75 / kept.numel()))
    assert 0 < kept.any(-1).float().mean() <= 1
    assert not kept.all(-1).logical_or((~kept).all(-1)).all(), "whole rows, not entries"
    tower.eval().interaction_vector(ids)
    assert seen[1].equal(plain)
    tower.backbone = backbone
    linear_terms = tower.linear_terms
    assert linear_terms is not None
    assert linear_terms.train()(ids).equal(linear_terms.eval()(ids))


def test_heads_on_ids_are_heads(tmp_path):
    changes = {
        "plm.path": save_plm(tmp_path / "bert", "bert"),
        "pretrain.id_objective": "masked",
        "pretrain.text_id_weight": 1.0,
    }
    model = build_model(replaced(load_config(None), SMALL | changes), made_up(SIZES), objective="pretrain")
    heads = {name for name, _ in trainable_by_group(model)["heads"] if "id_head" in name}
    assert heads == {
        f"{head}.projection.{part}" for head in ("id_head", "text_id_head") for part in ("weight", "bias")
    }

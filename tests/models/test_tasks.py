"""Several labels as tasks: heads, experts, gates and towers as by loops over rows, with every backbone."""

import numpy as np
import pytest
import torch

from clickprompt.config import load_config
from clickprompt.models import backbones
from clickprompt.models.build import build_model
from tests.support.layouts import made_up
from tests.support.tiny import tiny_config, write_plm

SIZES = [5, 9, 4]
IDS = torch.tensor([[1, 2, 3], [0, 8, 1], [4, 0, 2], [2, 5, 0]])
LABELS = ("like", "purchase")
KINDS = ["shared_bottom", "mmoe"]
FGCNN = {"channels": [2], "kernel_heights": [2], "pooling_sizes": [2], "recombined_channels": [2]}


def model_of(kind, backbone="dcnv2", labels=LABELS):
    settings = [f"ctr.tasks={kind}", f"ctr.backbone={backbone}", "ctr.embedding_dim=8", "ctr.hidden_dim=16"]
    settings += ["ctr.experts=3", "ctr.expert_dim=5"]
    settings += [f"ctr.fgcnn.{key}={value}" for key, value in FGCNN.items()]
    config = load_config(None, settings)
    model = build_model(config, made_up(SIZES, labels=labels), objective="without_plm")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def by_hand(model, kind):
    """Row by row, task by task, expert by expert."""
    ctr, logits = model.ctr, []
    w = dict(ctr.named_parameters())
    for row in IDS:
        r = ctr.interaction_vector(row[None])[0]
        if ctr.linear_terms is not None:
            starts = np.cumsum([0, *SIZES[:-1]])
            terms = sum(
                w["linear_terms.weight"][start + int(i)] for start, i in zip(starts, row, strict=True)
            )
            r = torch.cat([r, terms])
        of_row = []
        if kind == "shared_bottom":
            click = ctr.prediction(r[None, : ctr.interaction_dim])[0, 0]
            of_row = [click if ctr.linear_terms is None else click + r[-1]]
            for task in range(len(LABELS)):
                of_row.append(w["tasks.heads.weight"][task] @ r + w["tasks.heads.bias"][task])
        else:
            for task in range(1 + len(LABELS)):
                scores = [torch.exp(gate @ r) for gate in w[f"tasks.gates.{task}.weight"]]
                mixed = torch.zeros(5, dtype=torch.float64)
                for k, score in enumerate(scores):
                    expert = w[f"tasks.experts.{k}.weight"] @ r + w[f"tasks.experts.{k}.bias"]
                    mixed = mixed + score / sum(scores) * expert.clamp(min=0)
                tower = f"tasks.towers.{task}"
                hidden = w[f"{tower}.0.linears.0.weight"] @ mixed + w[f"{tower}.0.linears.0.bias"]
                of_row.append((w[f"{tower}.1.weight"] @ hidden.clamp(min=0) + w[f"{tower}.1.bias"])[0])
        logits.append(torch.stack(of_row))
    return torch.stack(logits)


@pytest.mark.parametrize("backbone", ["dcnv2", "fm"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_loops_and_so_are_the_gradients(kind, backbone):
    ours, theirs = model_of(kind, backbone), model_of(kind, backbone)
    found, expected = ours(IDS), by_hand(theirs, kind)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)


@pytest.mark.parametrize("backbone", backbones.BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_has_them_and_trains_all_it_has(kind, backbone):
    model = model_of(kind, backbone)
    model(IDS).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("backbone", ["dcnv2", "deepfm"])
def test_the_click_of_a_shared_bottom_is_that_of_a_model_without_labels(backbone):
    """With the same weights, which the same seed draws."""
    alone = model_of("shared_bottom", backbone, labels=())
    torch.testing.assert_close(alone(IDS), model_of("shared_bottom", backbone)(IDS)[:, 0])


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_without_labels_nothing_is_there(kind):
    names = list(model_of("none", labels=()).state_dict())
    assert list(model_of(kind, labels=() if kind != "none" else LABELS).state_dict()) == names
    assert not [name for name in names if "tasks" in name]


@pytest.mark.parametrize("prompts", [2, 0])
def test_with_a_language_model_each_task_has_an_output_and_an_alpha(tmp_path, prompts):
    """And the prompts are of the one q."""
    plm = write_plm(str(tmp_path / "plm"))
    config = tiny_config("none", plm, prompt__num_prompts=prompts, ctr__tasks="mmoe")
    model = build_model(config, made_up(SIZES, labels=LABELS), objective="with_plm").eval()
    input_ids, mask = torch.tensor([[2, 5, 6, 3]] * 4), torch.ones(4, 4, dtype=torch.int64)
    if prompts:
        with torch.no_grad():
            model.ctr_weight.copy_(torch.tensor([0.2, 0.5, 0.9]))
    found = model(IDS, input_ids, mask)
    q = model.ctr.interaction_vector(IDS)
    of_ctr = model.ctr.tasks(q)
    projected = model.prompt_projector(q) if prompts else None
    of_plm = model.click_head(model.pooled(input_ids, mask, projected))
    assert of_plm.shape == (4, 3)
    for task, alpha in enumerate([0.2, 0.5, 0.9]):
        a, b = (alpha, 1 - alpha) if prompts else (1, 1)
        torch.testing.assert_close(found[:, task], a * of_ctr[:, task] + b * of_plm[:, task])
    found.square().sum().backward()
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert [name for name in lacking if "pooler" not in name] == []

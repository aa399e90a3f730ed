"""Integrated gradients of the CTR tower: they sum to what they explain, for every backbone."""

import pytest
import torch

from clickprompt.config import load_config
from clickprompt.models.backbones import BACKBONES
from clickprompt.models.ctr import CTRModel
from clickprompt.scoring.attribution import integrated_gradients

SIZES = [7, 5, 4, 6]
FGCNN = ["ctr.fgcnn.channels=[3,3]", "ctr.fgcnn.kernel_heights=[2,2]", "ctr.fgcnn.pooling_sizes=[1,1]"]
FGCNN += ["ctr.fgcnn.recombined_channels=[2,2]"]


def tower(backbone: str) -> CTRModel:
    """With weights so large that the logit is far from linear."""
    settings = [f"ctr.backbone={backbone}", "ctr.embedding_dim=4", "ctr.hidden_dim=8", "ctr.num_layers=2"]
    config = load_config(None, settings + FGCNN)
    torch.manual_seed(3)
    model = CTRModel(SIZES, config.ctr)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def drawn(rows: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randint(0, size, (rows,), generator=generator) for size in SIZES], dim=1)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_rows_attributions_sum_to_its_logit_less_the_baselines(backbone):
    model, ids = tower(backbone), drawn()
    found = integrated_gradients(model, ids)
    with torch.no_grad():
        logits, baseline = model(ids), model(torch.zeros_like(ids[:1]))
    torch.testing.assert_close(found.logits.float(), logits, atol=1e-4, rtol=1e-4)
    assert found.baseline_logit == pytest.approx(float(baseline), abs=1e-4)
    gained = found.logits - found.baseline_logit
    assert float(gained.abs().max()) > 0.2  # there is something to explain
    torch.testing.assert_close(found.of_fields.sum(1), gained, atol=3e-3, rtol=1e-3)


@pytest.mark.parametrize("backbone", ["dcnv2", "xdeepfm", "fm"])
def test_an_unknown_value_is_worth_nothing(backbone):
    model, ids = tower(backbone), drawn()
    ids[:, 2] = 0
    found = integrated_gradients(model, ids)
    assert torch.equal(found.of_fields[:, 2], torch.zeros(len(ids), dtype=torch.float64))
    assert (found.of_fields[:, 1][ids[:, 1] > 0] != 0).all()


def test_fm_by_hand():
    """Of two fields, ⟨e_0, e_1⟩ has the gradient e'_1 + t δ_1 for e_0, whose mean over t is at ½."""
    config = load_config(None, ["ctr.backbone=fm", "ctr.embedding_dim=4"])
    model = CTRModel([5, 6], config.ctr).eval()
    assert model.linear_terms is not None
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        both = torch.tensor([[3, 2], [0, 0]])
        e, first = model.embedding(both).double()
        w, w_first = model.linear_terms(both)[..., 0].double()
    delta, middle = e - first, (e + first) / 2
    expected = torch.stack([delta[0] @ middle[1], delta[1] @ middle[0]]) + w - w_first
    found = integrated_gradients(model, both[:1])
    torch.testing.assert_close(found.of_fields[0], expected, atol=1e-9, rtol=1e-9)


def test_gradients_are_left_alone():
    model = tower("dcnv2")
    integrated_gradients(model, drawn(2))
    assert all(
        parameter.grad is None and parameter.dtype == torch.float32 for parameter in model.parameters()
    )

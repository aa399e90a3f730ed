"""Dropout from shared random words: its rate, its scale, and attention with it against torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.models.plm_dropout import CPUDropout, cpu_dropout, sdpa_attention
from clickprompt.models.plm_loading import load_plm
from tests.support.tiny_plms import VARIANTS

N = 1_000_001  # no multiple of the four that share a word


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_scale_gradient(rate):
    torch.manual_seed(0)
    x = torch.randn(N, requires_grad=True)
    y = cpu_dropout(x, rate)
    y.sum().backward()
    kept = y != 0
    assert abs(kept.double().mean() - (1 - rate)) < 4 * (rate * (1 - rate) / N) ** 0.5
    torch.testing.assert_close(
        y[kept], x[kept] / (1 - rate), rtol=2e-4, atol=0
    )  # the rate is a multiple of 2^-16
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept / (1 - rate), rtol=2e-4, atol=0)


@pytest.mark.parametrize("apart", [1, 2, 3, 4])
def test_elements_of_a_word_are_independent(apart):
    torch.manual_seed(0)
    kept = (cpu_dropout(torch.ones(N), 0.3) != 0).double() - 0.7
    assert abs((kept[apart:] * kept[:-apart]).mean()) < 4 * 0.21 / N**0.5


def test_the_same_state_gives_the_same_mask_and_the_next_another():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = cpu_dropout(x, 0.5), cpu_dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(cpu_dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_nothing_and_everything():
    x = torch.randn(7)
    assert cpu_dropout(x, 0.0) is x
    assert not cpu_dropout(x, 1.0).any()
    assert torch.equal(CPUDropout(0.5).eval()(x), x)
    assert cpu_dropout(torch.randn(0, 3), 0.5).shape == (0, 3)


def heads(rows=2, groups=1):
    query = torch.randn(rows, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    key, value = (
        torch.randn(rows, 4 // groups, 7, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    mask = torch.zeros(rows, 1, 5, 7, dtype=torch.float64)
    mask[0, :, :, 5:] = torch.finfo(mask.dtype).min
    return query, key, value, mask


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_at_a_vanishing_rate_is_torchs(groups, masked, scaling, biased):
    torch.manual_seed(0)
    query, key, value, mask = heads(groups=groups)
    mask = mask if masked else None
    bias = torch.randn(1, 4, 5, 7, dtype=torch.float64) if biased else None
    options = {"dropout": 1e-9, "scaling": scaling, "position_bias": bias}
    output, _ = sdpa_attention(nn.Module(), query, key, value, mask, **options)
    if bias is not None:
        mask = bias if mask is None else mask + bias
    expected = F.scaled_dot_product_attention(
        query, key, value, mask, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    ours = torch.autograd.grad((output * weights).sum(), [query, key, value])
    theirs = torch.autograd.grad((expected * weights).sum(), [query, key, value])
    torch.testing.assert_close(ours, theirs)


def test_attention_drops_weights_and_not_values():
    torch.manual_seed(0)
    query, key, value, mask = heads()
    torch.manual_seed(1)
    output, _ = sdpa_attention(nn.Module(), query, key, value, mask, dropout=0.4)
    torch.manual_seed(1)
    kept = cpu_dropout(torch.ones(2, 4, 5, 7, dtype=torch.float64), 0.4)
    weights = F.softmax(query @ key.mT / 8**0.5 + mask, dim=-1) * kept
    torch.testing.assert_close(output, (weights @ value).transpose(1, 2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_dropout_module_of_a_plm_is_replaced(tiny, variant):
    plm = load_plm(PLMConfig(path=tiny(variant)), PromptConfig())
    assert not [name for name, module in plm.backbone.named_modules() if type(module) is nn.Dropout]

"""Against loops over the groups' pairs and lists, in double precision."""

import math

import numpy as np
import pytest
import torch

from clickprompt.models.ranking_loss import RANKING_TERMS, listwise_loss, pairwise_loss


def a_case(seed, rows=60, groups=9):
    generator = np.random.default_rng(seed)
    logits = torch.tensor(3 * generator.normal(size=rows), dtype=torch.float64)
    logits[::7] = 0.5  # ties
    members = generator.integers(groups, size=rows) * 10**12
    labels = generator.integers(2, size=rows)
    labels[members == members.min()] = 0
    labels[members == members.max()] = 1
    return logits, torch.tensor(members), torch.tensor(labels)


def naive_pairwise(logits, groups, labels):
    total, pairs = 0.0, 0
    for i in range(len(logits)):
        for j in range(len(logits)):
            if groups[i] == groups[j] and labels[i] == 1 and labels[j] == 0:
                total -= math.log(1 / (1 + math.exp(-(float(logits[i]) - float(logits[j])))))
                pairs += 1
    return total, pairs


def naive_listwise(logits, groups, labels):
    total, lists = 0.0, 0
    for group in set(groups.tolist()):
        own = [i for i in range(len(logits)) if groups[i] == group]
        clicks = [i for i in own if labels[i] == 1]
        if 0 < len(clicks) < len(own):
            weights = sum(math.exp(float(logits[i])) for i in own)
            total -= sum(math.log(math.exp(float(logits[i])) / weights) for i in clicks) / len(clicks)
            lists += 1
    return total, lists


NAIVE = {"pairwise": naive_pairwise, "listwise": naive_listwise}
LOSSES = {"pairwise": pairwise_loss, "listwise": listwise_loss}


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("seed", range(3))
def test_equal_a_loop(name, seed):
    logits, groups, labels = a_case(seed)
    expected, count = NAIVE[name](logits, groups, labels)
    assert LOSSES[name](logits, groups, labels).item() == pytest.approx(expected, rel=1e-12)
    padded = [torch.cat([values, values[:20].flip(0)]) for values in (logits, groups, labels)]
    weights = torch.tensor([1] * len(logits) + [0] * 20)
    rows = torch.stack([padded[1], padded[2], weights], 1)
    term = RANKING_TERMS[name]
    assert term.count(rows).item() == count
    assert term.loss(padded[0].unsqueeze(1), rows).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAIVE)
def test_the_gradient_is_that_of_differences(name):
    logits, groups, labels = a_case(5)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, groups, labels), logits.requires_grad_())


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("label", [0, 1])
def test_nothing_to_order_is_no_loss(name, label):
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[group, label, 1] for group in (1, 1, 2, 2, 2, 3)])
    loss = RANKING_TERMS[name].loss(logits.unsqueeze(1), rows)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    assert RANKING_TERMS[name].count(rows).item() == 0


@pytest.mark.parametrize("name", NAIVE)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([1e4, -1e4, 1e4], dtype=torch.float64)
    loss = LOSSES[name](logits, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 0]))
    assert 1e4 < loss.item() < 1e5

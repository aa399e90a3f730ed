"""CTRL by hand: similarities, both softmaxes and the sum in plain loops; its towers and what they train."""

import math

import pytest
import torch

from clickprompt.config import replaced
from clickprompt.models.baselines.ctrl import contrastive_loss
from clickprompt.models.build import build_model
from tests.support.baselines import FIELD_IDS, INPUT_IDS, MASK, SIZES, dotted, drawn
from tests.support.layouts import made_up
from tests.support.naive_plm import naive_plm
from tests.support.tiny import tiny_config, write_plm


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    plm = write_plm(str(tmp_path_factory.mktemp("ctrl") / "plm"))
    return tiny_config("nowhere", plm, **dotted("ctrl"))


def similarity(ones, others) -> float:
    """Σ_m max_n one_m · other_n of two lists of vectors."""
    return sum(max(sum(x * y for x, y in zip(one, other, strict=True)) for other in others) for one in ones)


def naive_loss(tabular, textual, temperature: float) -> float:
    """Both: a list of M vectors for each row."""
    loss = 0.0
    for ones, others in ((tabular, textual), (textual, tabular)):
        for row, one in enumerate(ones):
            scores = [math.exp(similarity(one, other) / temperature) for other in others]
            loss -= math.log(scores[row] / sum(scores)) / 2
    return loss


@pytest.mark.parametrize("subspaces", [1, 3])
def test_the_loss_is_the_naive_one(subspaces):
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(6, 2, subspaces, 4, generator=generator, dtype=torch.float64)
    real = torch.tensor([True, True, False, True, True, False])
    found = contrastive_loss(vectors.flatten(1), real, subspaces, 0.7)
    rows = [row for row in range(6) if real[row]]
    tabular, textual = ([vectors[row, side].tolist() for row in rows] for side in (0, 1))
    assert found.item() == pytest.approx(naive_loss(tabular, textual, 0.7), abs=1e-9)


def test_the_two_directions_differ():
    """A maximum over the other's sub-spaces isn't symmetric."""
    one, other = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    assert similarity(one, other) == 2
    assert similarity(other, one) == 1


def test_a_batch_of_padding_has_no_loss():
    vectors = torch.randn(3, 16, requires_grad=True)
    loss = contrastive_loss(vectors, torch.zeros(3, dtype=torch.bool), 2, 0.7)
    loss.backward()
    assert loss.item() == 0


def test_representations_are_unit_vectors_of_both_towers(config):
    model = drawn(build_model(config, made_up(SIZES), objective="pretrain"))
    with torch.no_grad():
        found = model.representations(FIELD_IDS, INPUT_IDS, MASK).unflatten(1, (2, 4, 6))
        pooled = naive_plm(model.plm.backbone, INPUT_IDS, MASK)[:, 0]
        textual = model.contrast.textual(pooled).unflatten(1, (4, 6))
        tabular = model.contrast.tabular(model.ctr.interaction_vector(FIELD_IDS)).unflatten(1, (4, 6))
    for side, raw in ((0, tabular), (1, textual)):
        expected = raw / raw.square().sum(2, keepdim=True).sqrt()
        torch.testing.assert_close(found[:, side].double(), expected, atol=1e-6, rtol=0)


def test_everything_is_trained_and_finetuning_has_the_ctr_model_alone(config):
    model = build_model(config, made_up(SIZES), objective="pretrain")
    found = model.representations(torch.tensor([[1, 0, 2, 3], [2, 1, 3, 0], [0, 0, 1, 1]]), INPUT_IDS, MASK)
    contrastive_loss(found, torch.ones(3, dtype=torch.bool), 4, 0.7).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
    finetuned = build_model(config, made_up(SIZES), objective="without_plm")
    alone = build_model(replaced(config, {"baseline": "none"}), made_up(SIZES), objective="without_plm")
    assert finetuned.plm is None
    for name, tensor in alone.state_dict().items():
        assert torch.equal(finetuned.state_dict()[name], tensor)

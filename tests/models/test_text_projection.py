"""Frozen text vectors in the CTR tower: e_j(x) = E[x] + W_j v[x] number by number, for every backbone."""

import numpy as np
import pytest
import torch

from clickprompt.config import CTRConfig, FGCNNConfig
from clickprompt.models.backbones import BACKBONES
from clickprompt.models.clickprompt import unique_tensors
from clickprompt.models.ctr import CTRModel
from clickprompt.models.text_projection import PROJECTION, TextProjection, fold
from tests.support.baselines import drawn

SIZES = [5, 3, 7, 4]
IDS = torch.tensor([[0, 2, 6, 1], [4, 1, 0, 3], [2, 0, 5, 0], [3, 2, 1, 2]])
SIZE = 6  # of a text's vector


def vectors():
    """[N, H] float16, with the zeros of the unknown ids."""
    drawn = np.random.default_rng(3).normal(size=(sum(SIZES), SIZE)).astype(np.float16)
    drawn[np.cumsum(SIZES) - SIZES] = 0
    return drawn


def of(ids):
    return torch.from_numpy(vectors()[ids.numpy() + np.cumsum(SIZES) - SIZES])


def tower(backbone, text_size=SIZE):
    config = CTRConfig(
        backbone=backbone,
        embedding_dim=4,
        hidden_dim=8,
        num_layers=2,
        attention_dim=4,
        cin_dims=(3,),
        fgcnn=FGCNNConfig(channels=(2,), kernel_heights=(3,), pooling_sizes=(2,), recombined_channels=(2,)),
    )
    torch.manual_seed(0)
    return CTRModel(SIZES, config, text_size=text_size)


def test_the_projection_is_a_matrix_of_each_field():
    projection = TextProjection(len(SIZES), SIZE, 4)
    weight = torch.nn.init.normal_(projection.weight).tolist()
    found = projection(of(IDS)).tolist()
    table = vectors().astype(float).tolist()
    starts = [0, 5, 8, 15]
    for row, ids in enumerate(IDS.tolist()):
        for field, value in enumerate(ids):
            vector = table[starts[field] + value]
            expected = [sum(vector[h] * weight[field][h][d] for h in range(SIZE)) for d in range(4)]
            assert found[row][field] == pytest.approx(expected, abs=1e-5)
            assert any(expected) == (value > 0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_tower_reads_the_sum(backbone):
    """The backbone gets E[x] + W v[x], its linear terms ids alone; an export's table has these sums."""
    model = drawn(tower(backbone))
    weights = {name: tensor.clone() for name, tensor in unique_tensors(model).items()}
    table, projection = weights["ctr.embedding.weight".removeprefix("ctr.")], model.text_projection
    assert projection is not None
    assert projection.weight.shape == (len(SIZES), SIZE, table.shape[1])
    naive = [
        table[start + value] + torch.tensor(vectors()[start + value].astype(float)) @ projection.weight[field]
        for field, (start, size) in enumerate(zip([0, 5, 8, 15], SIZES, strict=True))
        for value in range(size)
    ]
    plain = drawn(tower(backbone, text_size=None))
    state = {name: tensor for name, tensor in model.state_dict().items() if "text_projection" not in name}
    plain.load_state_dict(state | {"embedding.weight": torch.stack(naive).detach()})
    with torch.no_grad():
        q = model.interaction_vector(IDS, of(IDS))
        logits = model.logits(IDS, q)
        torch.testing.assert_close(logits, plain(IDS))
        assert not torch.allclose(logits, model.logits(IDS, model.interaction_vector(IDS, 0 * of(IDS))))

    exported = {f"ctr.{name}": tensor for name, tensor in weights.items()}
    exported = {name: tensor.float() for name, tensor in exported.items()}
    fold(exported, vectors(), SIZES)
    assert PROJECTION not in exported
    torch.testing.assert_close(exported["ctr.embedding.weight"], torch.stack(naive).float())


@pytest.mark.parametrize("backbone", ["dcnv2", "fm"])
def test_training_begins_with_the_tower_without_texts(backbone):
    with_texts, without = tower(backbone), tower(backbone, text_size=None)
    assert set(with_texts.state_dict()) - set(without.state_dict()) == {"text_projection.weight"}
    with torch.no_grad():
        q = with_texts.interaction_vector(IDS, of(IDS))
        assert with_texts.logits(IDS, q).equal(without(IDS))
    with_texts.logits(IDS, with_texts.interaction_vector(IDS, of(IDS))).sum().backward()
    assert with_texts.text_projection.weight.grad.abs().sum() > 0

"""Given vectors in the CTR tower: e_j(x) = E[x] + W_j v[x] number by number, with gradients, also among a
history's items and candidates for a hidden id; and the table of an export.
"""

import copy
from itertools import accumulate

import numpy as np
import pytest
import torch

from clickprompt.config import CTRConfig, History
from clickprompt.models.clickprompt import unique_tensors
from clickprompt.models.ctr import CTRModel
from clickprompt.models.given_vectors import GIVEN, fold
from tests.support.baselines import drawn

SIZES = [5, 9, 4]
STARTS = [*accumulate([0, *SIZES[:-1]])]
HISTORY = History(field=1, length=2)
IDS = torch.tensor([[1, 2, 3, 4, 7], [0, 8, 1, 0, 0], [4, 0, 2, 5, 5], [2, 6, 0, 1, 0]])
COLUMNS = [0, 1, 2, 1, 1]
H = {1: 3, 2: 2}


def tables():
    """Field → [N, H] float16, with zeros of the unknown id."""
    rng = np.random.default_rng(3)
    found = {field: rng.normal(size=(SIZES[field], size)).astype(np.float16) for field, size in H.items()}
    for table in found.values():
        table[0] = 0
    return found


def tower(backbone="deepfm", vectors=None):
    config = CTRConfig(backbone=backbone, embedding_dim=4, hidden_dim=8, num_layers=2)
    torch.manual_seed(0)
    return CTRModel(SIZES, config, history=HISTORY, vectors=vectors)


def matrices(model):
    return {name: projection.weight for name, projection in model.vectors.of_field.items()}


def summed(table, weights):
    """E + W v, row by row, by a loop over numbers."""
    rows = []
    for field, (start, size) in enumerate(zip(STARTS, SIZES, strict=True)):
        for value in range(size):
            row = list(table[start + value])
            if field in H:
                vector = tables()[field][value].tolist()
                for d in range(len(row)):
                    for h in range(H[field]):
                        row[d] = row[d] + vector[h] * weights[str(field)][h, d]
            rows.append(torch.stack(row))
    return torch.stack(rows)


def test_equal_to_a_loop_with_gradients():
    """A tower without vectors whose table is E + W v, made by a loop, has the same logits and gradients."""
    model = drawn(tower(vectors=tables())).double()
    plain = copy.deepcopy(model)
    plain.vectors = None
    table = model.embedding.weight.detach().clone().requires_grad_()
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in matrices(model).items()}
    del plain.embedding.weight
    plain.embedding.weight = summed(table, weights)
    found, expected = model(IDS), plain(IDS)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(model.embedding.weight.grad, table.grad)
    for name, weight in weights.items():
        torch.testing.assert_close(matrices(model)[name].grad, weight.grad)
        assert weight.grad.abs().max() > 1e-4


def test_candidates_have_their_vectors():
    model = drawn(tower(vectors=tables())).double()
    ids, fields = torch.tensor([3, 4, 0, 8, 3]), torch.tensor([0, 0, 1, 1, 2])
    expected = summed(model.embedding.weight, matrices(model))[ids + torch.tensor(STARTS)[fields]]
    torch.testing.assert_close(model.embedded(ids, fields), expected)


@pytest.mark.parametrize("backbone", ["dcnv2", "fm"])
def test_training_begins_without_them_and_an_export_has_them_folded(backbone):
    model, plain = tower(backbone, tables()), tower(backbone)
    assert model(IDS).equal(plain(IDS))
    model = drawn(model).float()
    weights = {f"ctr.{name}": tensor.clone() for name, tensor in unique_tensors(model).items()}
    fold(weights, tables(), SIZES)
    assert not [name for name in weights if name.startswith(GIVEN)]
    plain.load_state_dict({name.removeprefix("ctr."): tensor for name, tensor in weights.items()})
    torch.testing.assert_close(plain(IDS), model(IDS))
    without = {name: tensor for name, tensor in weights.items() if not name.startswith("ctr.")}
    fold(without, tables(), SIZES)  # a pretraining without a CTR tower
    assert not without

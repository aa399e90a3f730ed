"""A field's several values: pooled as by a loop over rows and values, in every backbone and linear term."""

import numpy as np
import pytest
import torch

from clickprompt.config import History, Multi, load_config
from clickprompt.models import backbones
from clickprompt.models.build import build_model
from clickprompt.models.pooling import pooled_fields
from tests.support.layouts import made_up

SIZES = [5, 9, 4]
MULTI = (Multi(field=1, most=3), Multi(field=2, most=2))
#           own ids, further values of field 1, of field 2
IDS = torch.tensor([[1, 2, 3, 4, 7, 0], [0, 8, 1, 0, 0, 2], [4, 0, 2, 0, 0, 3], [2, 5, 0, 5, 1, 0]])
KINDS = ["mean", "sum", "max"]


def by_hand(table, ids, kind):
    """Plain Python over rows and fields: table [sum of SIZES, d] → [B, F, d]."""
    starts = [0, 5, 14]
    columns = [[0], [1, 3, 4], [2, 5]]
    rows = []
    for row in ids.tolist():
        fields = []
        for start, of_field in zip(starts, columns, strict=True):
            values = [row[column] for column in of_field if row[column]] or [0]
            vectors = [table[start + value] for value in values]
            if kind == "max":
                of_row = vectors[0]
                for vector in vectors[1:]:
                    of_row = torch.where(vector > of_row, vector, of_row)
            else:
                of_row = sum(vectors[1:], vectors[0]) / (len(vectors) if kind == "mean" else 1)
            fields.append(of_row)
        rows.append(torch.stack(fields))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_a_loop_and_so_are_the_gradients(kind):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(18, 4, generator=generator, dtype=torch.float64)
    ours, theirs = (table.clone().requires_grad_() for _ in range(2))
    offsets = torch.tensor([0, 5, 14, 5, 5, 14])
    found = pooled_fields(ours[IDS + offsets], IDS, 3, MULTI, kind)
    expected = by_hand(theirs, IDS, kind)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not ours.grad[5 + 6].any(), "a value that no row has"


def model_of(backbone="dcnv2", kind="mean", multi=MULTI, history=None, sizes=SIZES):
    settings = [f"ctr.backbone={backbone}", f"ctr.pooling={kind}", "ctr.embedding_dim=8", "ctr.hidden_dim=16"]
    settings += ["ctr.fgcnn.channels=[2]", "ctr.fgcnn.kernel_heights=[2]", "ctr.fgcnn.pooling_sizes=[2]"]
    settings += ["ctr.fgcnn.recombined_channels=[2]"]
    config = load_config(None, settings)
    return build_model(config, made_up(sizes, multi=multi, history=history), objective="without_plm").eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", sorted(backbones.BACKBONES))
def test_every_backbone_reads_them(backbone, kind):
    """As one that is given the pooled embeddings (and linear terms) of the loop."""
    model = model_of(backbone, kind).ctr
    plain = model_of(backbone, kind, multi=()).ctr
    assert plain.state_dict().keys() == model.state_dict().keys()
    fields = by_hand(model.embedding.weight, IDS, kind)
    logits = plain.prediction(plain.backbone(fields)).squeeze(1)
    if plain.linear_terms is not None:
        logits = logits + by_hand(model.linear_terms.weight, IDS, kind).sum((1, 2))
    torch.testing.assert_close(model(IDS), logits)


def test_no_value_is_the_missing_value():
    several, plain = model_of(kind="sum"), model_of(multi=())
    one_each = torch.cat([IDS[:, :3], torch.zeros_like(IDS[:, 3:])], 1)
    torch.testing.assert_close(several(one_each), plain(IDS[:, :3]))


def test_with_a_history_behind_them():
    history = History(field=0, length=2)
    model = model_of(history=history)
    items = torch.tensor([[1, 2], [0, 0], [4, 0], [2, 2]])
    before = model(torch.cat([IDS, items], 1))
    changed = items.clone()
    changed[2, 0] = 3
    after = model(torch.cat([IDS, changed], 1))
    assert np.flatnonzero((before != after).numpy()).tolist() == [2]
    values = IDS.clone()
    values[0, 4] = 6
    after = model(torch.cat([values, items], 1))
    assert np.flatnonzero((before != after).numpy()).tolist() == [0]

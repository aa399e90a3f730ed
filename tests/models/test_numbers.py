"""Embeddings of numbers: as loops over rows and fields compute them, with their gradients, and in every
backbone.
"""

import math

import pytest
import torch

from clickprompt.config import CTRConfig, History, Multi, load_config
from clickprompt.models import backbones
from clickprompt.models.build import build_model
from clickprompt.models.numbers import EMBEDDERS
from tests.support.layouts import made_up

SIZES = [5, 9, 4, 3]
NUMBERS = (1, 3)
KINDS = sorted(EMBEDDERS)
#  ids of four fields, numbers of fields 1 and 3 in millionths
IDS = torch.tensor(
    [
        [1, 2, 3, 1, 250_000, -1_700_000],
        [0, 8, 1, 0, 0, 9],
        [4, 0, 2, 2, 77, 31_415],
        [2, 5, 0, 0, -400_000, 0],
    ]
)


def by_hand(kind, module, numbers):
    """Plain Python over rows, fields, sizes and entries: numbers [B, K] → [B, K, d]."""
    of = {name: parameter.unbind() for name, parameter in module.named_parameters()}
    rows = []
    for row in numbers:
        fields = []
        for field, z in enumerate(row):
            if kind == "periodic":
                angles = [2 * math.pi * c * z for c in of["frequencies"][field]]
                waves = [torch.sin(angle) for angle in angles] + [torch.cos(angle) for angle in angles]
                weights = of["weight"][field]
                entries = [
                    sum((wave * weights[place, entry] for place, wave in enumerate(waves)), bias)
                    for entry, bias in enumerate(of["bias"][field])
                ]
                fields.append(torch.stack([torch.clamp(entry, min=0) for entry in entries]))
            else:
                hidden = [
                    value if value > 0 else 0.01 * value
                    for value in of["scores"][field] * z + of["bias"][field]
                ]
                size = range(len(hidden))
                mixed = [sum((hidden[s] * of["mixing"][field][s, t] for s in size), hidden[t]) for t in size]
                total = sum(torch.exp(one) for one in mixed)
                fields.append(sum(torch.exp(mixed[s]) / total * of["meta"][field][s] for s in size))
        rows.append(torch.stack(fields))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_a_loop_and_so_are_the_gradients(kind):
    torch.manual_seed(0)
    module = EMBEDDERS[kind](2, 4, CTRConfig(numeric_size=3, numeric_sigma=1.0)).double()
    if kind == "periodic":
        torch.nn.init.normal_(module.bias)
    numbers = torch.tensor([[0.25, -1.7], [0.3, 2.0], [-0.6, 12.0]], dtype=torch.float64)
    found, expected = module(numbers), by_hand(kind, module, numbers)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, dtype=torch.float64)
    parameters = list(module.parameters())
    ours, theirs = (torch.autograd.grad((one * weight).sum(), parameters) for one in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other)


def model_of(numeric, backbone="dcnv2", numbers=NUMBERS, more=(), **rows):
    settings = [f"ctr.backbone={backbone}", f"ctr.numeric={numeric}", "ctr.embedding_dim=8"]
    settings += ["ctr.hidden_dim=16", "ctr.numeric_size=5", "ctr.fgcnn.channels=[2]"]
    settings += ["ctr.fgcnn.kernel_heights=[2]", "ctr.fgcnn.pooling_sizes=[2]"]
    settings += ["ctr.fgcnn.recombined_channels=[2]", *more]
    config = load_config(None, settings)
    return build_model(config, made_up(SIZES, numbers=numbers, **rows), objective="without_plm").eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", sorted(backbones.BACKBONES))
def test_every_backbone_reads_them(backbone, kind):
    """In place of the buckets' embeddings, but where a value is missing; linear terms are the buckets'."""
    model = model_of(kind, backbone).ctr
    fields = model.embedding(IDS[:, :4]).clone()
    of_numbers = by_hand(kind, model.numbers, IDS[:, 4:].float() / 1e6)
    for row in range(len(IDS)):
        for place, field in enumerate(NUMBERS):
            if IDS[row, field]:
                fields[row, field] = of_numbers[row, place]
    logits = model.prediction(model.backbone(fields)).squeeze(1)
    if model.linear_terms is not None:
        logits = logits + model.linear_terms(IDS[:, :4]).sum((1, 2))
    torch.testing.assert_close(model(IDS), logits)


def test_buckets_read_no_number():
    """And a tower has the same weights whether there are numbers or not."""
    model, plain = model_of("buckets"), model_of("buckets", numbers=())
    assert {name: one.tolist() for name, one in model.state_dict().items()} == {
        name: one.tolist() for name, one in plain.state_dict().items()
    }
    assert torch.equal(model(IDS), plain(IDS[:, :4]))


def test_behind_further_values_and_a_history():
    model = model_of("periodic", multi=(Multi(field=2, most=2),), history=History(field=0, length=2))
    extra = torch.tensor([[1, 1, 2], [0, 0, 0], [3, 4, 0], [2, 2, 2]])
    ids = torch.cat([IDS[:, :4], extra, IDS[:, 4:]], 1)
    before = model(ids)
    for column, row in ((4, 3), (5, 2), (7, 0), (8, 2)):
        changed = ids.clone()
        changed[row, column] = 1 if column < 7 else 123_456
        assert (model(changed) != before).nonzero().flatten().tolist() == [row], column


def test_bf16_weights_keep_a_number_whole():
    model = model_of("periodic", more=["ctr.numeric_sigma=3"]).ctr.numbers
    exact = model(torch.tensor([[100.3, 0.1]]))
    found = model.bfloat16()(torch.tensor([[100.3, 0.1]]))
    assert found.dtype == torch.bfloat16
    rounded = model.float()(torch.tensor([[100.3, 0.1]]))
    torch.testing.assert_close(found.float(), rounded, atol=0.03, rtol=0.03)
    assert exact.shape == found.shape

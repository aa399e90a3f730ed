"""What the tower makes of a history, against loops over rows and items; and that it reads nothing else."""

import numpy as np
import pytest
import torch

from clickprompt.config import History, load_config
from clickprompt.models import backbones
from clickprompt.models.build import build_model
from clickprompt.models.history import POOLINGS
from tests.support.layouts import made_up

SIZES = [5, 9, 4]
HISTORY = History(field=1, length=3)
IDS = torch.tensor([[1, 2, 3, 4, 7, 0], [0, 8, 1, 0, 0, 0], [4, 3, 2, 5, 5, 1]])


def drawn(module):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module.eval()


def inputs(width=6, rows=5, length=4):
    generator = torch.Generator().manual_seed(2)
    items = torch.randn(rows, length, width, generator=generator, dtype=torch.float64)
    target = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    present = torch.rand(rows, length, generator=generator) < 0.6
    present[0] = False
    return items, present, target


def layer(linear, vector):
    return linear.weight.detach().numpy() @ vector + linear.bias.detach().numpy()


def by_hand(name, module, items, present, target):
    rows = []
    for row, own in zip(range(len(items)), target.numpy(), strict=True):
        seen = [items[row, place].numpy() for place in range(items.shape[1]) if present[row, place]]
        if name == "mean":
            rows.append(sum(seen) / len(seen) if seen else np.zeros_like(own))
            continue
        total = np.zeros_like(own)
        for item in seen:
            hidden = np.concatenate([item, own, item - own, item * own])
            for linear in module.mlp.linears:
                hidden = np.maximum(layer(linear, hidden), 0)
            total += layer(module.weight, hidden)[0] * item
        rows.append(total)
    return np.stack(rows)


@pytest.mark.parametrize("name", ["mean", "din"])
def test_equal_to_loops(name):
    items, present, target = inputs()
    module = drawn(POOLINGS[name](6, 4))
    found = module(items, present, target).detach().numpy()
    np.testing.assert_allclose(found, by_hand(name, module, items, present, target), atol=1e-12)


def test_a_transformer_of_the_present_items_alone():
    """One row at a time, without its absent places: attention, feed-forward, in the layers' own order."""
    items, present, target = inputs()
    module = drawn(POOLINGS["transformer"](6, 4))
    found = module(items, present, target).detach()
    for row in range(len(items)):
        places = torch.cat([torch.zeros(1, dtype=torch.long), 1 + present[row].nonzero()[:, 0]])
        states = (torch.cat([target[row : row + 1], items[row]]) + module.positions)[places]
        for one in module.layers.layers:
            x = one.norm1(states)
            heads = []
            weight, bias = one.self_attn.in_proj_weight, one.self_attn.in_proj_bias
            query, key, value = (x @ weight.T + bias).split(6, dim=1)
            for begin in (0, 3):
                some = slice(begin, begin + 3)
                attention = (query[:, some] @ key[:, some].T / 3**0.5).softmax(1)
                heads.append(attention @ value[:, some])
            states = states + one.self_attn.out_proj(torch.cat(heads, 1))
            states = states + one.linear2(torch.relu(one.linear1(one.norm2(states))))
        torch.testing.assert_close(found[row], states[0].detach())


@pytest.mark.parametrize("name", POOLINGS)
def test_absent_places_count_for_nothing(name):
    items, present, target = inputs()
    module = drawn(POOLINGS[name](6, 4))
    other = torch.where(present.unsqueeze(2), items, torch.randn_like(items))
    torch.testing.assert_close(module(other, present, target), module(items, present, target))


@pytest.mark.parametrize("further", [(), (0,), ("age",), (2, 0, "label", "age")])
def test_an_event_is_a_sum(further):
    """Every further column adds the row of its table, and the target has those of the row's own fields."""
    history = History(1, 3, further)
    model = drawn(model_of(given=history, history="mean")).ctr
    generator = torch.Generator().manual_seed(3)
    of = [one if isinstance(one, str) else SIZES[one] for one in (1, *further) for _ in range(3)]
    sizes = [{"label": 3, "age": 33}.get(size, size) for size in [*SIZES, *of]]
    ids = torch.stack([torch.randint(size, (5,), generator=generator) for size in sizes], 1)
    weight, starts = model.embedding.weight, [0, *np.cumsum(SIZES)]
    events, present, target = model.events(model._embedded(ids)[0], ids)
    assert present.equal(ids[:, 3:6] > 0)
    for row in range(5):
        fields = [1, *(one for one in further if not isinstance(one, str))]
        torch.testing.assert_close(target[row], sum(weight[starts[one] + ids[row, one]] for one in fields))
        for place in range(3):
            event = weight[starts[1] + ids[row, 3 + place]]
            for number, one in enumerate(further, 1):
                found = int(ids[row, 3 + 3 * number + place])
                if not isinstance(one, str):
                    event = event + weight[starts[one] + found]
                elif found:
                    event = event + model.events.tables[one].weight[found - 1]
            torch.testing.assert_close(events[row, place], event)


def model_of(backbone="dcnv2", history="din", objective="without_plm", given=HISTORY):
    settings = [
        f"ctr.backbone={backbone}",
        f"ctr.history={history}",
        "ctr.embedding_dim=8",
        "ctr.hidden_dim=16",
    ]
    settings += ["ctr.fgcnn.channels=[2]", "ctr.fgcnn.kernel_heights=[2]", "ctr.fgcnn.pooling_sizes=[2]"]
    settings += ["ctr.fgcnn.recombined_channels=[2]"]
    return build_model(load_config(None, settings), made_up(SIZES, history=given), objective=objective).eval()


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("backbone", sorted(backbones.BACKBONES))
def test_every_backbone_reads_it(backbone, name):
    model = model_of(backbone, name)
    changed = IDS.clone()
    changed[1, 3] = 6
    before, after = model(IDS), model(changed)
    assert before[[0, 2]].equal(after[[0, 2]])
    assert before[1] != after[1]


def test_its_items_are_those_of_the_field():
    """A history of one item, and the same item as the row's own: one embedding."""
    model = model_of(history="mean").ctr
    embeddings = model.embedding(torch.tensor([[1, 7, 2, 7, 0, 0]]))
    assert embeddings[0, 1].equal(embeddings[0, 3])
    assert embeddings.shape == (1, 6, 8)


def test_none_reads_the_fields_alone():
    plain, without = model_of(given=None), model_of(history="none")
    assert plain(IDS[:, :3]).equal(without(IDS))
    assert plain.state_dict().keys() == without.state_dict().keys()

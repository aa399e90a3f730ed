"""The heads of pretraining on ids, against naive loops."""

import math

import numpy as np
import torch

from clickprompt.data.places import Cells, Reading
from clickprompt.models.id_heads import RestoringHead, mean_by_cell, restoring_loss
from clickprompt.models.layers import PackedEmbedding

torch.manual_seed(0)


def test_states_are_averaged_over_a_values_tokens():
    hidden = torch.randn(3, 6, 4)
    value_fields = torch.tensor([[-1, 0, 0, -1, 2, -1], [-1, 1, 2, 2, 2, -1], [0, 0, -1, -1, -1, -1]])
    cells = torch.tensor([[True, False, True], [False, True, True], [False, False, True]])
    labels = np.full((3, 6), -100)
    labels[:, 3] = [7, 8, 9]  # the second is a token of a cell, too
    reading = Reading.of(labels, -100, value_fields.numpy(), cells.numpy())
    numbers = Cells.of(cells.numpy())
    states = torch.cat(
        [
            hidden[row, z]
            for row in range(3)
            for z in range(6)
            if z == 3 or _of_cell(value_fields, cells, row, z)
        ]
    ).view(-1, 4)
    assert len(states) == len(reading.numbers) == 3 + 2 + 1 + 1 + 2
    found = mean_by_cell(states[reading.at_cells], reading.cells, 5)
    expected = []
    for row, field in ((0, 0), (1, 1), (0, 2), (1, 2), (2, 2)):
        own = [hidden[row, z] for z in range(6) if value_fields[row, z] == field]
        expected.append(torch.stack(own).mean(0) if own else torch.zeros(4))
    torch.testing.assert_close(found, torch.stack(expected))
    assert numbers.numbers.tolist() == [0, 4, 2, 5, 8]
    assert numbers.per_field == (1, 1, 3)


def _of_cell(value_fields, cells, row, place):
    field = value_fields[row, place]
    return field >= 0 and cells[row, field]


def test_restoring_is_a_softmax_over_candidates_and_the_value_itself():
    sizes, d = [5, 7, 3], 4
    embedding = PackedEmbedding(sizes, d).double()
    torch.nn.init.normal_(embedding.weight)
    vectors = torch.randn(6, d, dtype=torch.float64)
    fields = torch.tensor([0, 0, 0, 1, 1, 1])
    true_ids = torch.tensor([2, 4, 1, 6, 1, 3])
    complete = torch.tensor([True, False, False])
    log_q = torch.randn(6, dtype=torch.float64) * ~complete[fields]
    # Field 0 has all its values; field 1's hold a value twice, one of them a target; field 2 has none
    ids, of_field = torch.tensor([1, 2, 3, 4, 3, 3, 5]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    candidate_log_q = torch.randn(7, dtype=torch.float64) * ~complete[of_field]
    candidates = (ids, of_field, candidate_log_q, (4, 3, 0), complete.tolist())
    found = restoring_loss(vectors, fields, true_ids, log_q, (3, 3, 0), candidates, embedding)
    table = embedding.weight.detach()
    starts = [0, 5, 12]
    expected = 0.0
    for m in range(6):
        field, own = int(fields[m]), int(true_ids[m])

        def score(value, q, field=field, m=m):
            return math.exp(float(vectors[m] @ table[starts[field] + value]) - q)

        numerator = score(own, float(log_q[m]))
        others = sum(
            score(int(c), float(q))
            for c, f, q in zip(ids, of_field, candidate_log_q, strict=True)
            if f == field and c != own
        )
        expected -= math.log(numerator / (numerator + others))
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64))
    found.backward()
    assert embedding.weight.grad is not None


def test_without_targets_the_loss_is_zero_with_a_graph():
    embedding = PackedEmbedding([3, 3], 2)
    head = RestoringHead(5, 2, 2)
    nothing = torch.zeros(0, dtype=torch.int64)
    vectors = head(torch.zeros(0, 5), nothing)
    candidates = (torch.tensor([1, 2]), torch.tensor([0, 1]), torch.zeros(2), (1, 1), (True, False))
    loss = restoring_loss(vectors, nothing, nothing, torch.zeros(0), (0, 0), candidates, embedding)
    loss.backward()
    assert float(loss) == 0
    assert head.projection.weight.grad is not None


def test_a_cell_gets_its_own_fields_vector():
    head = RestoringHead(5, 3, 2)
    states, fields = torch.randn(4, 5), torch.tensor([2, 0, 1, 2])
    whole = head.projection(states).view(4, 3, 2)
    torch.testing.assert_close(head(states, fields), torch.stack([whole[m, fields[m]] for m in range(4)]))

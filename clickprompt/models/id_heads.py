"""Heads of pretraining on ids: detect replaced values, and restore hidden ones.

Shape legend: B rows, F fields, S tokens read, Q interaction_dim, H hidden size,
d embedding size, M cells to be restored, C candidates.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.models.layers import linear

__all__ = ["ReplacedHead", "RestoringHead", "mean_by_cell", "restoring_loss"]


class ReplacedHead(nn.Module):
    """One logit a field of the value being another than the row's own (replaced feature detection of MAP, Lin
    et al. 2023): Linear(q), Q → F.
    """

    def __init__(self, interaction_dim: int, num_fields: int) -> None:
        super().__init__()
        self.detection = linear(interaction_dim, num_fields)

    def forward(self, interaction_vector: Tensor) -> Tensor:
        """q [B, Q] → logits [B, F]."""
        return self.detection(interaction_vector)


class RestoringHead(nn.Module):
    """A vector a field, whose products with the embeddings of the field's values are the logits of a hidden
    value: Linear, Q (or H) → F d.
    """

    def __init__(self, input_dim: int, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.projection = linear(input_dim, num_fields * embedding_dim)

    def forward(self, states: Tensor, fields: Tensor) -> Tensor:
        """states [M, Q] and the field of each [M] → [M, d]."""
        states = states.to(self.projection.weight.dtype)
        vectors = self.projection(states).unflatten(1, (self.num_fields, -1))
        return vectors[torch.arange(len(fields), device=fields.device), fields]


def mean_by_cell(states: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """Average the states of each cell's tokens: states [S, H], cells [S] → [num_cells, H]."""
    sums = states.new_zeros(num_cells, states.shape[1]).index_add(0, cells, states)
    # bincount would wait for the device to tell its length
    counts = torch.zeros(num_cells, device=cells.device).index_add(
        0, cells, torch.ones(len(cells), device=cells.device)
    )
    return sums / counts.clamp(min=1).unsqueeze(1).to(sums.dtype)


def restoring_loss(
    vectors: Tensor,
    fields: Tensor,
    true_ids: Tensor,
    log_q: Tensor,
    per_field: Sequence[int],
    candidates: tuple[Tensor, Tensor, Tensor, Sequence[int], Sequence[bool]],
    embedding: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the summed cross entropy of M hidden ids, each among its field's candidates and itself:

        −log( e^{v·e_y − log Q_y} / (e^{v·e_y − log Q_y} + Σ_{c ≠ y} e^{v·e_c − log Q_c}) )

    vectors [M, d]; fields (ascending), true_ids, log_q [M]; per_field: how many are of each of the F fields.
    embedding: ids and the field of each, [C] → [C, d].
    candidates: ids, fields (ascending), log Q, each [C]; how many are of each field; and whether they are all
    ids of the field, in order and with log Q 0. The host knows these numbers, so it waits for no device.
    """
    ids, of_field, candidate_log_q, numbers, complete = candidates
    cells = [part.split(list(per_field)) for part in (fields, true_ids)]
    drawn = [field for field, whole in enumerate(complete) if not whole]
    own_fields, own_ids = ([part[field] for field in drawn] for part in cells)
    rows = embedding(torch.cat([ids, *own_ids]), torch.cat([of_field, *own_fields]))
    vectors = vectors.to(rows.dtype)  # autocast may have lowered it
    parts = rows.split([*numbers, *(per_field[field] for field in drawn)])
    own = dict(zip(drawn, parts[len(numbers) :], strict=True))
    losses = [vectors[:0].sum() + rows[:0].sum()]  # a graph even without targets
    for field, (v, true, true_log_q, embedded, part, part_log_q) in enumerate(
        zip(
            vectors.split(list(per_field)),
            cells[1],
            log_q.split(list(per_field)),
            parts,
            ids.split(list(numbers)),
            candidate_log_q.split(list(numbers)),
            strict=False,
        )
    ):
        logits = v @ embedded.T
        if field not in own:  # the same loss as below, without three passes over the logits
            target = torch.searchsorted(part, true)
        else:
            own_logits = (v * own[field]).sum(1) - true_log_q
            others = (logits - part_log_q).masked_fill(true.unsqueeze(1) == part, -torch.inf)
            logits = torch.cat([own_logits.unsqueeze(1), others], dim=1)
            target = torch.zeros_like(true)
        losses.append(F.cross_entropy(logits, target, reduction="sum"))
    return torch.stack(losses).sum()

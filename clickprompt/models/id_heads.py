"""Heads of pretraining on ids: detect replaced values, and restore hidden ones.

Shape legend: B rows, F fields, Z tokens of a row, T tokens read, Q interaction_dim, H hidden size,
d embedding size, M cells to be restored, C candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.models.layers import PackedEmbedding, linear

__all__ = ["ReplacedHead", "RestoringHead", "cells_of_tokens", "mean_by_cell", "restoring_loss"]


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


def cells_of_tokens(value_fields: Tensor, cells: Tensor) -> Tensor:
    """Number the true cells in row-major order and return the number of each token's cell, or -1:
    value_fields [B, Z], cells [B, F] bool → [B, Z] int64.
    """
    number = torch.full(cells.shape, -1, device=cells.device)
    number[cells] = torch.arange(int(cells.sum()), device=cells.device)
    return torch.where(value_fields >= 0, number.gather(1, value_fields.clamp(min=0).long()), -1)


def mean_by_cell(states: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """Average the states of each cell's tokens: states [T, H], cells [T] → [num_cells, H]."""
    sums = states.new_zeros(num_cells, states.shape[1]).index_add(0, cells, states)
    counts = torch.bincount(cells, minlength=num_cells).clamp(min=1)
    return sums / counts.unsqueeze(1).to(sums.dtype)


def restoring_loss(
    vectors: Tensor,
    fields: Tensor,
    true_ids: Tensor,
    log_q: Tensor,
    candidates: tuple[Tensor, Tensor, Tensor, Tensor],
    embedding: PackedEmbedding,
) -> Tensor:
    """Return the summed cross entropy of M hidden ids, each among its field's candidates and itself:

        −log( e^{v·e_y − log Q_y} / (e^{v·e_y − log Q_y} + Σ_{c ≠ y} e^{v·e_c − log Q_c}) )

    vectors [M, d]; fields, true_ids, log_q [M]; candidates: ids, fields (ascending), log Q, each [C], and
    whether they are all ids of a field, in order and with log Q 0, [F] bool.
    """
    ids, of_field, candidate_log_q, complete = candidates
    drawn = ~complete[fields]
    rows = embedding(torch.cat([ids, true_ids[drawn]]), torch.cat([of_field, fields[drawn]]))
    vectors = vectors.to(rows.dtype)  # autocast may have lowered it
    numbers = torch.bincount(of_field, minlength=len(complete)).tolist()
    *among, own = rows.split([*numbers, int(drawn.sum())])
    own_logits = (vectors[drawn] * own).sum(1) - log_q[drawn]
    own_logits = torch.zeros_like(log_q, dtype=rows.dtype).masked_scatter(drawn, own_logits)
    losses = [vectors[:0].sum() + rows[:0].sum()]  # a graph even without targets
    parts = zip(among, ids.split(numbers), candidate_log_q.split(numbers), complete.tolist(), strict=True)
    for field, (embedded, part, part_log_q, whole) in enumerate(parts):
        cells = torch.nonzero(fields == field).squeeze(1)
        logits = vectors[cells] @ embedded.T
        if whole:  # the same loss as below, without three passes over the logits
            target = torch.searchsorted(part, true_ids[cells])
        else:
            itself = true_ids[cells].unsqueeze(1) == part
            others = (logits - part_log_q).masked_fill(itself, -torch.inf)
            logits = torch.cat([own_logits[cells].unsqueeze(1), others], dim=1)
            target = torch.zeros_like(cells)
        losses.append(F.cross_entropy(logits, target, reduction="sum"))
    return torch.stack(losses).sum()

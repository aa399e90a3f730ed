"""Losses of the order of rows within groups, such as one user's rows or those of one request.

Shape legend: N rows, P pairs, G groups.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clickprompt.data.batch import Batch

__all__ = ["RANKING_TERMS", "RankingTerm", "listwise_loss", "pairwise_loss"]


def pairwise_loss(logits: Tensor, groups: Tensor, labels: Tensor) -> Tensor:
    """RankNet (Burges et al. 2005, "Learning to Rank using Gradient Descent"): Σ −log σ(s_i − s_j) over the
    pairs of a click i and another row j of the same group.

    logits [N], groups [N] int64, labels [N], 0 or 1 → a scalar, 0 (with a graph) without pairs.
    """
    clicks, others = _pairs(groups, labels)
    return F.softplus(logits.index_select(0, others) - logits.index_select(0, clicks)).sum()


def count_pairs(groups: Tensor, labels: Tensor) -> Tensor:
    """Count the pairs of `pairwise_loss`."""
    clicks, first, last, _ = _others_of(groups, labels)
    return (last - first).sum() if len(clicks) else clicks.sum()


def listwise_loss(logits: Tensor, groups: Tensor, labels: Tensor) -> Tensor:
    """ListNet's top-one cross entropy (Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise
    Approach"): Σ over groups of −Σ_i y_i / Σ y · log softmax(s)_i.

    Groups without a click or with only clicks have nothing to be ordered, and add 0. Shapes as in
    `pairwise_loss`.
    """
    members, clicks, ordered = _lists(groups, labels)
    highest = (
        logits.detach()
        .new_zeros(len(clicks))
        .scatter_reduce(0, members, logits.detach(), "amax", include_self=False)
    )
    shifted = logits - highest.index_select(0, members)
    log_sums = torch.log(shifted.new_zeros(len(clicks)).index_add(0, members, shifted.exp()))
    shares = labels.to(logits.dtype) * (ordered.to(logits.dtype) / clicks.clamp(min=1)).index_select(
        0, members
    )
    return -(shares * (shifted - log_sums.index_select(0, members))).sum()


def count_lists(groups: Tensor, labels: Tensor) -> Tensor:
    """Count the groups of `listwise_loss` that have both a click and another row."""
    return _lists(groups, labels)[2].sum()


def _lists(groups: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which group each row is of, [N], and of each group the clicks, and whether it counts, [G]."""
    names, members = torch.unique(groups, return_inverse=True)
    clicks = labels.new_zeros(len(names)).index_add(0, members, labels)
    rows = labels.new_zeros(len(names)).index_add(0, members, torch.ones_like(labels))
    return members, clicks, (clicks > 0) & (clicks < rows)


def _others_of(groups: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the clicks, where the other rows of each one's group begin and end, and the list of those."""
    clicks, others = torch.nonzero(labels > 0).squeeze(1), torch.nonzero(labels <= 0).squeeze(1)
    names, order = groups.index_select(0, others).sort(stable=True)
    wanted = groups.index_select(0, clicks)
    first, last = torch.searchsorted(names, wanted), torch.searchsorted(names, wanted, right=True)
    return clicks, first, last, others.index_select(0, order)


def _pairs(groups: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (click, other row) of every pair, each [P]."""
    clicks, first, last, others = _others_of(groups, labels)
    number = last - first
    # The n-th pair of a click is with the n-th other row of its group
    shift = (first - (number.cumsum(0) - number)).repeat_interleave(number)
    return clicks.repeat_interleave(number), others[shift + torch.arange(len(shift), device=shift.device)]


@dataclass(frozen=True)
class RankingTerm:
    """A ranking loss as a term over the whole global batch (training/two_pass.py)."""

    name: str
    counted: str
    """what `count` counts, and the loss is divided by"""
    _loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    _count: Callable[[Tensor, Tensor], Tensor]

    def rows(self, batch: Batch) -> Tensor:
        """Return each row's group, label and weight, [B, 3] int64."""
        assert batch.groups is not None, "the collator was given no column of groups"
        return torch.stack([batch.groups, batch.labels.long(), batch.row_weight.long()], 1)

    def loss(self, representations: Tensor, rows: Tensor) -> Tensor:
        """Return the summed loss, a scalar in float64, for the logits [N, 1] of `rows`, [N, 3]. Rows of
        weight 0 don't count.
        """
        real = torch.nonzero(rows[:, 2]).squeeze(1)
        groups, labels, _ = rows.index_select(0, real).unbind(1)
        return self._loss(representations.squeeze(1).index_select(0, real).double(), groups, labels)

    def count(self, rows: Tensor) -> Tensor:
        """Count what the loss is divided by."""
        groups, labels, _ = rows[rows[:, 2] > 0].unbind(1)
        return self._count(groups, labels)


RANKING_TERMS = {
    "pairwise": RankingTerm("pairwise", "pairs", pairwise_loss, count_pairs),
    "listwise": RankingTerm("listwise", "groups", listwise_loss, count_lists),
}

"""What the CTR tower makes of a history (`ctr.history`): one embedding more, beside the fields'.

Of the earlier rows, the events 1 … N, newest first, and of the row itself, the target, poolings read

    h_n = E_item[x_n] + Σ_f E_f[x_nf] + L[label_n] + A[age_n]        e = E_item[x] + Σ_f E_f[x_f]

E_item and E_f are the fields' own tables, f the further fields that the dataset has of events, and L and A
small tables of the history's own, if it has labels and ages (`History` in config/history.py); a label or age
that isn't known adds nothing. The target's label is what is predicted, and its age is 0. A sum has the width
of one embedding, so backbones and prompts read it like any other. Places without an item count for nothing.

Shape legend: B rows, N events of a history, d width of the table, C columns of ids.
"""

import torch
from torch import Tensor, nn

from clickprompt.config import EVENT_SIZES, History
from clickprompt.models.layers import MLP, gather_rows, linear

__all__ = ["POOLINGS", "DINAttention", "Events", "HistoryTransformer", "MeanHistory"]

_DIN_HIDDEN = (64, 32)
_LAYERS = 2
_POSITION_STD = 0.02
_EMBEDDING_STD = 0.02


class Events(nn.Module):
    """h_1 … h_N and e of a batch."""

    def __init__(self, history: History, first: int, width: int) -> None:
        """first: the column of the newest item; those of `History.columns` follow."""
        super().__init__()
        self.item, self.fields, self.words = history.field, history.fields, history.words
        self.length, self.first = history.length, first
        self.tables = nn.ModuleDict({word: _EventTable(EVENT_SIZES[word], width) for word in self.words})

    def forward(self, embeddings: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """embeddings [B, C, d] of the ids of fields, which `ids` [B, C or more] begins with → h [B, N, d],
        which events there are [B, N] bool, and e [B, d].
        """
        events, target = self._part(embeddings, 0), embeddings[:, self.item]
        for place, field in enumerate(self.fields, 1):
            events = events + self._part(embeddings, place)
            target = target + embeddings[:, field]
        for place, word in enumerate(self.words, 1 + len(self.fields)):
            events = events + self.tables[word](self._part(ids, place))
        return events, self._part(ids, 0) > 0, target

    def _part(self, columns: Tensor, place: int) -> Tensor:
        start = self.first + place * self.length
        return columns[:, start : start + self.length]


class _EventTable(nn.Module):
    """Embeddings of the ids from 1 up; that of 0 is 0."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_EMBEDDING_STD * torch.randn(size, width))

    def forward(self, ids: Tensor) -> Tensor:
        """ids of any shape → [..., d]."""
        known = (ids > 0).unsqueeze(-1).to(self.weight.dtype)
        return gather_rows(self.weight, (ids - 1).clamp(min=0)) * known


class MeanHistory(nn.Module):
    """(Σ h_n) / n, 0 for an empty history."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()

    def forward(self, items: Tensor, present: Tensor, target: Tensor) -> Tensor:
        """items [B, N, d], present [B, N] bool, target [B, d] → [B, d]."""
        weight = present.to(items.dtype).unsqueeze(2)
        return (items * weight).sum(1) / weight.sum(1).clamp(min=1)


class DINAttention(nn.Module):
    """Σ a(h_n, e) h_n, with a = MLP[h_n; e; h_n − e; h_n ⊙ e] not normalised, so that the length of an
    interest isn't lost (Deep Interest Network, Zhou et al. 2018, Eq. 3).
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.mlp = MLP(4 * width, _DIN_HIDDEN, 0.0)
        self.weight = linear(_DIN_HIDDEN[-1], 1)

    def forward(self, items: Tensor, present: Tensor, target: Tensor) -> Tensor:
        """items [B, N, d], present [B, N] bool, target [B, d] → [B, d]."""
        target = target.unsqueeze(1).expand_as(items)
        pairs = torch.cat([items, target, items - target, items * target], 2)
        weight = self.weight(self.mlp(pairs)) * present.to(items.dtype).unsqueeze(2)
        return (weight * items).sum(1)


class HistoryTransformer(nn.Module):
    """Two layers of a transformer over the items and the target, and its state at the target (Behavior
    Sequence Transformer, Chen et al. 2019).
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(_POSITION_STD * torch.randn(length + 1, width))
        heads = 2 if width % 2 == 0 else 1
        layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)

    def forward(self, items: Tensor, present: Tensor, target: Tensor) -> Tensor:
        """items [B, N, d], present [B, N] bool, target [B, d] → [B, d]."""
        states = torch.cat([target.unsqueeze(1), items], 1) + self.positions
        absent = torch.cat([torch.zeros_like(present[:, :1]), ~present], 1)
        return self.layers(states, src_key_padding_mask=absent)[:, 0]


POOLINGS: dict[str, type[nn.Module]] = {
    "mean": MeanHistory,
    "din": DINAttention,
    "transformer": HistoryTransformer,
}

"""What the CTR tower makes of a history (`ctr.history`): one embedding more, beside the fields'.

The items' embeddings h_1 … h_N, newest first, are rows of the same table as the item field's, and e is the
embedding of the row's own item, the target. Places without an item count for nothing.

Shape legend: B rows, N items of a history, d width of the table.
"""

import torch
from torch import Tensor, nn

from clickprompt.models.layers import MLP, linear

__all__ = ["POOLINGS", "DINAttention", "HistoryTransformer", "MeanHistory"]

_DIN_HIDDEN = (64, 32)
_LAYERS = 2
_POSITION_STD = 0.02


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

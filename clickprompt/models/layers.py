"""Layers that the CTR backbones share.

Shape legend: B rows, F fields, d embedding size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLP", "PackedEmbedding", "linear"]

_EMBEDDING_STD = 0.02  # std 1 drives softmaxes into denormals, which makes CPU matmuls several times slower


class PackedEmbedding(nn.Module):
    """Embed_Layer of Eq. 5: all fields' embeddings as one table, field j's ids starting at the sum of the earlier sizes."""

    offsets: Tensor

    def __init__(self, field_sizes: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sum(field_sizes), embedding_dim))
        nn.init.normal_(self.weight, std=_EMBEDDING_STD)
        offsets = torch.tensor([0, *field_sizes[:-1]], dtype=torch.int64).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, field_ids: Tensor) -> Tensor:
        """field_ids [B, F] int64, each field counting from 0 → field_embeddings [B, F, d]."""
        return F.embedding(field_ids + self.offsets, self.weight)


class MLP(nn.Module):
    """`num_layers` linear layers of `hidden_dim`, each followed by ReLU and dropout; its output is the last hidden layer."""

    def __init__(self, input_dim: int, hidden_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.linears = nn.ModuleList(linear(input_dim if i == 0 else hidden_dim, hidden_dim) for i in range(num_layers))
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.linears:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return x


def linear(input_dim: int, output_dim: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(input_dim, output_dim, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer

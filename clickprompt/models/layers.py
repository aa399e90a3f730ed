"""Layers that the CTR backbones share.

Shape legend: B rows, F fields, d embedding size.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLP", "PackedEmbedding", "bi_interaction", "inner_products", "linear"]

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
    """Linear layers of the widths `hidden_dims`, each followed by ReLU and dropout; its output is the last hidden layer."""

    def __init__(self, input_dim: int, hidden_dims: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.linears = nn.ModuleList(linear(inputs, outputs) for inputs, outputs in pairwise((input_dim, *hidden_dims)))
        self.dropout = dropout
        self.output_dim = hidden_dims[-1]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.linears:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return x


def bi_interaction(field_embeddings: Tensor) -> Tensor:
    """Σ_{i<j} e_i ⊙ e_j = ½((Σ_i e_i)² − Σ_i e_i²): [B, F, d] → [B, d]."""
    return 0.5 * (field_embeddings.sum(1).square() - field_embeddings.square().sum(1))


def inner_products(field_embeddings: Tensor) -> Tensor:
    """⟨e_i, e_j⟩ for i < j in row-major order: [B, F, d] → [B, F(F−1)/2]."""
    num_fields = field_embeddings.shape[1]
    rows, columns = torch.triu_indices(num_fields, num_fields, 1, device=field_embeddings.device)
    return (field_embeddings @ field_embeddings.mT).flatten(1).index_select(1, rows * num_fields + columns)


def linear(input_dim: int, output_dim: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(input_dim, output_dim, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer

"""AutoInt (Song et al., CIKM'19): multi-head self-attention over the fields, with an MLP beside it only if
`with_dnn`.

Shape legend: B rows, F fields, D attention_dim (the total over the heads).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP, linear

__all__ = ["AutoInt"]


class AutoInt(Backbone):
    """q = the last layer's fields, flattened, Q = F·D; with_dnn: [these, the MLP's last hidden layer]."""

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        dims = [config.embedding_dim] + [config.attention_dim] * config.num_layers
        self.layers = nn.ModuleList(
            _FieldAttention(input_dim, output_dim, config.num_heads, config.dropout)
            for input_dim, output_dim in pairwise(dims)
        )
        self.deep = (
            MLP(num_fields * config.embedding_dim, config.deep_dims, config.dropout)
            if config.with_dnn
            else None
        )
        self.interaction_dim = num_fields * config.attention_dim + (self.deep.output_dim if self.deep else 0)

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        x = field_embeddings
        for layer in self.layers:
            x = layer(x)
        if self.deep is None:
            return x.flatten(1)
        return torch.cat([x.flatten(1), self.deep(field_embeddings.flatten(1))], dim=1)


class _FieldAttention(nn.Module):
    """ReLU(attention(x) + residual). The residual is x itself, or W_res x if the sizes differ. Logits are not
    scaled by 1/√d.
    """

    def __init__(self, input_dim: int, output_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.query = linear(input_dim, output_dim, bias=False)
        self.key = linear(input_dim, output_dim, bias=False)
        self.value = linear(input_dim, output_dim, bias=False)
        self.residual = (
            nn.Identity() if input_dim == output_dim else linear(input_dim, output_dim, bias=False)
        )
        self.num_heads = num_heads
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        # Each [B, heads, F, D / heads]
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=1.0)
        return F.relu(attended.transpose(1, 2).flatten(2) + self.residual(x))

"""IPNN (Qu et al., ICDM'16): an MLP on the embeddings and their inner products."""

import torch
from torch import Tensor

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP, inner_products

__all__ = ["IPNN"]


class IPNN(Backbone):
    """q = the last hidden layer of MLP([e_1 … e_F, ⟨e_i, e_j⟩ for i < j])."""

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        num_pairs = num_fields * (num_fields - 1) // 2
        self.deep = MLP(num_fields * config.embedding_dim + num_pairs, config.deep_dims, config.dropout)
        self.interaction_dim = self.deep.output_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        return self.deep(torch.cat([field_embeddings.flatten(1), inner_products(field_embeddings)], dim=1))

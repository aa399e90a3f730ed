"""DeepFM (Guo et al., IJCAI'17): FM and an MLP on the same embeddings."""

import torch
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP, bi_interaction, linear

__all__ = ["DeepFM"]


class DeepFM(Backbone):
    """q = [Σ_{i<j} e_i ⊙ e_j, last hidden layer]; logit = Σ of the first part + Linear(the second) + Σ_j
    w[x_j].
    """

    has_linear_terms = True

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        self.deep = MLP(num_fields * config.embedding_dim, config.deep_dims, config.dropout)
        self.embedding_dim = config.embedding_dim
        self.interaction_dim = config.embedding_dim + self.deep.output_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        return torch.cat([bi_interaction(field_embeddings), self.deep(field_embeddings.flatten(1))], dim=1)

    def build_prediction(self) -> nn.Module:
        return _SumAndLinear(self.embedding_dim, self.deep.output_dim)


class _SumAndLinear(nn.Module):
    def __init__(self, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.deep = linear(hidden_dim, 1)
        self.embedding_dim = embedding_dim

    def forward(self, q: Tensor) -> Tensor:
        return q[:, : self.embedding_dim].sum(1, keepdim=True) + self.deep(q[:, self.embedding_dim :])

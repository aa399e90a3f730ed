"""FM (Rendle, ICDM'10)."""

import torch
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import bi_interaction

__all__ = ["FM"]


class FM(Backbone):
    """q = Σ_{i<j} e_i ⊙ e_j, Q = d; logit = Σ q + Σ_j w[x_j] + b."""

    has_linear_terms = True

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        self.interaction_dim = config.embedding_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        return bi_interaction(field_embeddings)

    def build_prediction(self) -> nn.Module:
        return _BiasedSum()


class _BiasedSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, q: Tensor) -> Tensor:
        return q.sum(1, keepdim=True) + self.bias

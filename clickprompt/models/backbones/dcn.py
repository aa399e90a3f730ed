"""DCN (Wang et al., ADKDD'17): a rank-one cross network beside (`parallel`) or below (`stacked`) an MLP."""

import torch
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP, linear

__all__ = ["DCN"]


class DCN(Backbone):
    """x_{l+1} = x_0 (w_l·x_l) + b_l + x_l. q = [cross, last hidden layer]; stacked: the last hidden layer of
    MLP(cross).
    """

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        flat_dim = num_fields * config.embedding_dim
        self.cross = nn.ModuleList(_Cross(flat_dim) for _ in range(config.num_layers))
        self.deep = MLP(flat_dim, config.deep_dims, config.dropout)
        self.stacked = config.structure == "stacked"
        self.interaction_dim = self.deep.output_dim if self.stacked else flat_dim + self.deep.output_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        x0 = field_embeddings.flatten(1)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        return self.deep(x) if self.stacked else torch.cat([x, self.deep(x0)], dim=1)


class _Cross(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = linear(dim, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        return x0 * self.projection(x) + self.bias + x

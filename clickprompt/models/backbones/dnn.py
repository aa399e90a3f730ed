"""DNN: an MLP on the flattened field embeddings."""

from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.layers import MLP

__all__ = ["DNN"]


class DNN(nn.Module):
    """q = the MLP's last hidden layer; Q = hidden_dim."""

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        self.deep = MLP(num_fields * config.embedding_dim, config.hidden_dim, config.num_layers, config.dropout)
        self.interaction_dim = config.hidden_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        return self.deep(field_embeddings.flatten(1))

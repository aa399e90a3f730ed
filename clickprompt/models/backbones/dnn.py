"""DNN: an MLP on the flattened field embeddings."""

from torch import Tensor

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP

__all__ = ["DNN"]


class DNN(Backbone):
    """q = the MLP's last hidden layer."""

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        self.deep = MLP(num_fields * config.embedding_dim, config.deep_dims, config.dropout)
        self.interaction_dim = self.deep.output_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        return self.deep(field_embeddings.flatten(1))

"""The interface of every backbone. The defaults suit most of them."""

from typing import ClassVar

from torch import nn

from clickprompt.config import CTRConfig
from clickprompt.models.layers import linear

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """FI_Layer of Eq. 5: built from (num_fields, CTRConfig), maps field_embeddings [B, F, width] to the
    interaction vector q [B, Q].

    It holds only what q needs, because pretraining reads only q.
    """

    interaction_dim: int
    """Q"""

    has_linear_terms: ClassVar[bool] = False
    """Whether the logit adds one weight per feature value, Σ_j w[x_j]."""

    @staticmethod
    def embedding_width(config: CTRConfig) -> int:
        """Return the number of columns of the embedding table."""
        return config.embedding_dim

    def build_prediction(self) -> nn.Module:
        """Build the module that maps q [B, Q] to the logit [B, 1]."""
        return linear(self.interaction_dim, 1)

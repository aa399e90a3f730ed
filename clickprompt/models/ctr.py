"""The CTR tower: embedding, feature interaction, prediction (Eq. 2, 5, 10).

Shape legend: B rows, F fields, Q interaction_dim.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.backbones import get_backbone
from clickprompt.models.layers import PackedEmbedding, linear

__all__ = ["CTRModel"]


class CTRModel(nn.Module):
    """ŷ^CTR = Linear(q), q = FI_Layer(Embed_Layer(x^ID)).

    `prediction=False` leaves the last linear layer out, where nothing would train it (PA-MLM reads q only).
    Raises ConfigError for an unknown backbone.
    """

    def __init__(self, field_sizes: Sequence[int], config: CTRConfig, *, prediction: bool = True) -> None:
        super().__init__()
        self.embedding = PackedEmbedding(field_sizes, config.embedding_dim)
        self.backbone: Any = get_backbone(config.backbone)(len(field_sizes), config)
        self.prediction = linear(self.interaction_dim, 1) if prediction else None

    @property
    def interaction_dim(self) -> int:
        return self.backbone.interaction_dim

    def interaction_vector(self, field_ids: Tensor) -> Tensor:
        """Eq. 5: field_ids [B, F] → q [B, Q]."""
        return self.backbone(self.embedding(field_ids))

    def logits(self, interaction_vector: Tensor) -> Tensor:
        """ŷ^CTR of Eq. 9: q [B, Q] → ctr_logits [B]."""
        assert self.prediction is not None, "built without its prediction layer"
        return self.prediction(interaction_vector).squeeze(-1)

    def forward(self, field_ids: Tensor) -> Tensor:
        """Eq. 10 before the sigmoid: field_ids [B, F] → ctr_logits [B]."""
        return self.logits(self.interaction_vector(field_ids))

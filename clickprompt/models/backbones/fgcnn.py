"""FGCNN (Liu et al., WWW'19): convolutions over the fields make new fields, and IPNN reads old and new.

Shape legend: B rows, F fields, d embedding size, C channels, H height (remaining rows of fields), N new
fields.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP, inner_products, linear

__all__ = ["FGCNN"]


class FGCNN(Backbone):
    """q = the last hidden layer of MLP([fields, ⟨i, j⟩ for i < j]), where the fields are the embeddings and
    the new fields.

    The convolutions read embeddings of their own, the second half of a table that is 2d wide (with
    `share_embedding`: the same ones). Their batch normalisation makes training depend on how a batch is cut
    into micro-batches; an export has the running statistics of worker 0.
    """

    @staticmethod
    def embedding_width(config: CTRConfig) -> int:
        return config.embedding_dim * (1 if config.fgcnn.share_embedding else 2)

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        sizes, dim = config.fgcnn, config.embedding_dim
        self.layers = nn.ModuleList()
        channels, height, fields = 1, num_fields, num_fields
        for outputs, kernel, pool, recombined in zip(
            sizes.channels, sizes.kernel_heights, sizes.pooling_sizes, sizes.recombined_channels, strict=True
        ):
            layer = _NewFields(channels, outputs, kernel, pool, recombined, height, dim, sizes.batch_norm)
            self.layers.append(layer)
            channels, height = outputs, layer.height
            fields += recombined * height
        self.deep = MLP(fields * dim + fields * (fields - 1) // 2, config.deep_dims, config.dropout)
        self.embedding_dim = dim
        self.interaction_dim = self.deep.output_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, 2d], or [B, F, d] with share_embedding → [B, Q]."""
        fields = [field_embeddings[..., : self.embedding_dim]]
        x = field_embeddings[..., -self.embedding_dim :].unsqueeze(1)
        for layer in self.layers:
            x, new_fields = layer(x)
            fields.append(new_fields)
        fields = torch.cat(fields, dim=1)
        return self.deep(torch.cat([fields.flatten(1), inner_products(fields)], dim=1))


class _NewFields(nn.Module):
    """Convolution over the height (same padding), batch norm, tanh, max-pooling; then recombination:
    tanh(Linear) of everything that remains.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        kernel: int,
        pool: int,
        recombined: int,
        height: int,
        dim: int,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, outputs, (kernel, 1), padding="same")
        nn.init.xavier_uniform_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)  # pyright: ignore[reportArgumentType]
        self.norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.pool = pool
        # ⌈H / pool⌉ windows; the first begins H mod pool rows early if the last one then still reaches the
        # end
        missing = -height % pool
        above = min(height % pool, missing)
        self.padding = (0, 0, above, missing - above)
        self.height = (height + missing) // pool
        self.recombine = linear(outputs * self.height * dim, recombined * self.height * dim)
        self.dim = dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, H, d] → the next x, new fields [B, N, d]."""
        x = torch.tanh(self.norm(self.convolution(x)))
        x = F.max_pool2d(F.pad(x, self.padding, value=-torch.inf), (self.pool, 1))
        return x, torch.tanh(self.recombine(x.flatten(1))).unflatten(1, (-1, self.dim))

"""xDeepFM (Lian et al., KDD'18): a compressed interaction network (CIN) beside an MLP.

Shape legend: B rows, F fields, d embedding size, H rows of a CIN layer, O rows of the next.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clickprompt.config import CTRConfig
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import MLP, linear

__all__ = ["XDeepFM"]

_PRODUCTS_AT_ONCE = 2**20  # elements


class XDeepFM(Backbone):
    """X^{k+1}_o = Σ_{f,h} W^k_{o,fh} (X^0_f ⊙ X^k_h) + b^k_o, each row then summed over its d elements.

    q = [these sums of X^1, of X^2, …, the MLP's last hidden layer]; logit = Linear(q) + Σ_j w[x_j].
    """

    has_linear_terms = True

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        rows = (num_fields, *config.cin_dims)
        self.cin = nn.ModuleList(linear(num_fields * inputs, outputs) for inputs, outputs in pairwise(rows))
        self.deep = MLP(num_fields * config.embedding_dim, config.deep_dims, config.dropout)
        self.interaction_dim = sum(config.cin_dims) + self.deep.output_dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        x0 = field_embeddings.transpose(1, 2).contiguous()
        x, pooled = x0, []
        for layer in self.cin:
            x = _compress_products(x0, x, layer)
            pooled.append(x.sum(1))
        return torch.cat([*pooled, self.deep(field_embeddings.flatten(1))], dim=1)


def _compress_products(x0: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    """Map x0 [B, d, F], x [B, d, H] → [B, d, O].

    The products [B, d, F·H] are by far the largest tensor of the model. They are made for a few rows at a
    time, and made again in the backward pass, so that they never exist as a whole.
    """
    if torch.compiler.is_exporting():  # the graph would contain the chunks, and with them the number of rows
        return _layer_of_products(layer, x0, x)
    rows = max(1, _PRODUCTS_AT_ONCE // (x0[0].numel() * x.shape[-1]))
    chunks = [
        checkpoint(_layer_of_products, layer, x0_rows, x_rows, use_reentrant=False, preserve_rng_state=False)
        for x0_rows, x_rows in zip(x0.split(rows), x.split(rows), strict=True)
    ]
    return torch.cat(chunks)


def _layer_of_products(layer: nn.Module, x0: Tensor, x: Tensor) -> Tensor:
    return layer((x0.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2))

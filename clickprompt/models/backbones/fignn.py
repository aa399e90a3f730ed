"""FiGNN (Li et al., CIKM'19): a gated graph neural network whose nodes are the fields.

Shape legend: B rows, F fields, d embedding size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.errors import ConfigError
from clickprompt.models.backbones.backbone import Backbone
from clickprompt.models.layers import linear

__all__ = ["FiGNN"]


class FiGNN(Backbone):
    """h ← GRU(W_in Σ_j g_ij (W_out h)_j + b, h) + e, from h = e. q = the fields' last states h_j, flattened,
    Q = F·d.

    g is one attention over the fields, computed from the embeddings e. logit = Σ_j (w·h_j) sigmoid(W q)_j.
    Raises ConfigError for a single field.
    """

    def __init__(self, num_fields: int, config: CTRConfig) -> None:
        super().__init__()
        if num_fields < 2:
            raise ConfigError(
                f"ctr.backbone=fignn: a graph of the fields needs two, the dataset has {num_fields}; "
                "use another backbone"
            )
        dim = config.embedding_dim
        self.attention = _FieldGraph(dim)
        self.layers = nn.ModuleList(
            _GraphLayer(num_fields, dim) for _ in range(1 if config.reuse_layer else config.num_layers)
        )
        self.gru = nn.GRUCell(dim, dim)
        self.num_steps = config.num_layers
        self.num_fields = num_fields
        self.interaction_dim = num_fields * dim

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, Q]."""
        graph = self.attention(field_embeddings)
        h = field_embeddings
        for step in range(self.num_steps):
            messages = self.layers[step % len(self.layers)](graph, h)
            h = self.gru(messages.flatten(0, 1), h.flatten(0, 1)).view_as(h) + field_embeddings
        return h.flatten(1)

    def build_prediction(self) -> nn.Module:
        return _WeightedScores(self.num_fields, self.interaction_dim)


class _FieldGraph(nn.Module):
    """g_ij = softmax over j ≠ i of LeakyReLU(u·e_i + v·e_j): the two halves of one linear layer on [e_i,
    e_j], without the F² pairs.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = linear(2 * dim, 1, bias=False)

    def forward(self, field_embeddings: Tensor) -> Tensor:
        """field_embeddings [B, F, d] → [B, F, F]."""
        # Each [B, F, 1]
        source, target = (
            F.linear(field_embeddings, self.projection.weight.view(2, -1)).unsqueeze(-1).unbind(-2)
        )
        scores = F.leaky_relu(source + target.mT, 0.01)
        no_self_loop = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        return scores.masked_fill(no_self_loop, -torch.inf).softmax(-1)


class _GraphLayer(nn.Module):
    """The messages to each field: W_in,i Σ_j g_ij W_out,j h_j + b, with matrices of its own for
    every field.
    """

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(num_fields, dim, dim))
        self.weight_out = nn.Parameter(torch.empty(num_fields, dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        for weight in (*self.weight_in.data, *self.weight_out.data):
            nn.init.xavier_normal_(weight)

    def forward(self, graph: Tensor, h: Tensor) -> Tensor:
        """graph [B, F, F], h [B, F, d] → [B, F, d]."""
        return _per_field(self.weight_in, graph @ _per_field(self.weight_out, h)) + self.bias


def _per_field(weight: Tensor, x: Tensor) -> Tensor:
    """Multiply weight [F, d, d] by x [B, F, d], field by field."""
    return (x.transpose(0, 1) @ weight.mT).transpose(0, 1)


class _WeightedScores(nn.Module):
    def __init__(self, num_fields: int, flat_dim: int) -> None:
        super().__init__()
        self.score = linear(flat_dim // num_fields, 1, bias=False)
        self.weight = linear(flat_dim, num_fields, bias=False)

    def forward(self, q: Tensor) -> Tensor:
        scores = self.score(q.unflatten(1, (self.weight.out_features, -1))).squeeze(-1)
        return (scores * self.weight(q).sigmoid()).sum(1, keepdim=True)

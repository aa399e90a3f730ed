"""Prompt generation (Eq. 6).

Shape legend: B rows, Q interaction_dim, L layers, K prompts per layer, P = L·K, H hidden size of the PLM,
W width of a prompt (H for hidden states).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PromptProjector"]


class PromptProjector(nn.Module):
    """p_{l,k} = g_{l,k}(q), where g is a two-layer MLP with tanh between (§4.1.4), hidden size H: L·K
    separate networks, computed at once.

    Network (l, k) is slice l·K + k of each parameter.
    """

    def __init__(
        self,
        interaction_dim: int,
        num_layers: int,
        num_prompts: int,
        hidden_size: int,
        width: int | None = None,
    ) -> None:
        super().__init__()
        networks = num_layers * num_prompts
        width = width or hidden_size
        self.shape = (num_layers, num_prompts, width)
        self.hidden_weight = nn.Parameter(torch.empty(networks, hidden_size, interaction_dim))
        self.hidden_bias = nn.Parameter(torch.zeros(networks, hidden_size))
        self.output_weight = nn.Parameter(torch.empty(networks, width, hidden_size))
        self.output_bias = nn.Parameter(torch.zeros(networks, width))
        for weight in (*self.hidden_weight.data, *self.output_weight.data):
            nn.init.xavier_uniform_(weight)

    def forward(self, interaction_vector: Tensor) -> Tensor:
        """q [B, Q] → soft_prompts [B, L, K, W]."""
        # All networks read the same q, so the first layer is one plain matmul
        hidden = torch.tanh(
            F.linear(interaction_vector, self.hidden_weight.flatten(0, 1), self.hidden_bias.flatten())
        )
        hidden = hidden.unflatten(1, self.hidden_bias.shape).transpose(0, 1)  # [P, B, H]
        prompts = torch.baddbmm(self.output_bias.unsqueeze(1), hidden, self.output_weight.transpose(1, 2))
        return prompts.transpose(0, 1).unflatten(1, self.shape[:2])

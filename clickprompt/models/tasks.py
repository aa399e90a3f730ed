"""Heads for several labels as tasks, on what the CTR tower knows of a row.

Shape legend: B rows, R size of that vector r, T further labels, K experts, E size of an expert's output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import CTRConfig
from clickprompt.models.layers import MLP, linear

__all__ = ["TASK_HEADS", "MMoE", "SharedBottom"]


class SharedBottom(nn.Module):
    """ŷ_t = w_t · r + b_t for each further label t (Caruana 1997, "Multitask Learning"); the click keeps the
    backbone's own prediction.
    """

    heads_the_click = False

    def __init__(self, width: int, tasks: int, config: CTRConfig) -> None:
        super().__init__()
        self.heads = linear(width, tasks)

    def forward(self, shared: Tensor) -> Tensor:
        """Map r [B, R] → logits of the further labels [B, T]."""
        return self.heads(shared)


class MMoE(nn.Module):
    """Multi-gate mixture of experts (Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with
    Multi-gate Mixture-of-Experts", eq. 6-8), the click being task 0:

        f_k(r) = ReLU(W_k r + b_k),   g_t(r) = softmax(G_t r),   ŷ_t = h_t(Σ_k g_t(r)_k f_k(r))

    with a hidden layer of E in each tower h_t.
    """

    heads_the_click = True

    def __init__(self, width: int, tasks: int, config: CTRConfig) -> None:
        super().__init__()
        size, all_tasks = config.expert_dim, range(1 + tasks)
        self.experts = nn.ModuleList(linear(width, size) for _ in range(config.experts))
        self.gates = nn.ModuleList(linear(width, config.experts, bias=False) for _ in all_tasks)
        self.towers = nn.ModuleList(
            nn.Sequential(MLP(size, (size,), config.dropout), linear(size, 1)) for _ in all_tasks
        )

    def forward(self, shared: Tensor) -> Tensor:
        """Map r [B, R] → logits of the click and the further labels [B, 1 + T]."""
        experts = torch.stack([F.relu(expert(shared)) for expert in self.experts], 1)  # [B, K, E]
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = torch.softmax(gate(shared), 1)  # [B, K]
            logits.append(tower((weights.unsqueeze(1) @ experts).squeeze(1)))
        return torch.cat(logits, 1)


TASK_HEADS: dict[str, type[SharedBottom] | type[MMoE]] = {"shared_bottom": SharedBottom, "mmoe": MMoE}

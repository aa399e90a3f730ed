"""What the CTR tower makes of a numeric field's number (`ctr.numeric`): an embedding, in place of its
bucket's.

The number z is standardised (data/transform/standard.py). Every field has parameters of its own.

Shape legend: B rows, K fields with numbers, S `ctr.numeric_size`, d width of the tower's table.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import CTRConfig

__all__ = ["EMBEDDERS", "PeriodicNumbers", "SoftBuckets"]

_ROW_STD = 0.02  # of the tables


class PeriodicNumbers(nn.Module):
    """ReLU(W v + b) with v = [sin(2π c_1 z), …, sin(2π c_S z), cos(2π c_1 z), …, cos(2π c_S z)], where c is
    trained, and drawn from N(0, σ²) with σ = `ctr.numeric_sigma` (Gorishniy et al. 2022, "On embeddings for
    numerical features in tabular deep learning", section 3.3: PLR).
    """

    def __init__(self, fields: int, width: int, config: CTRConfig) -> None:
        super().__init__()
        size = config.numeric_size
        self.frequencies = nn.Parameter(torch.randn(fields, size) * config.numeric_sigma)
        self.weight = _xavier(fields, 2 * size, width)
        self.bias = nn.Parameter(torch.zeros(fields, width))

    def forward(self, numbers: Tensor) -> Tensor:
        """numbers [B, K] of at least float32 → [B, K, d], in the weights' type."""
        # In bf16 a sine's argument would have too few digits
        angles = 2 * math.pi * self.frequencies.to(numbers.dtype) * numbers.unsqueeze(2)  # [B, K, S]
        waves = torch.cat([angles.sin(), angles.cos()], 2).to(self.weight.dtype)
        return F.relu(torch.einsum("bks,ksd->bkd", waves, self.weight) + self.bias)


class SoftBuckets(nn.Module):
    """Σ_s p_s m_s over S trained meta-embeddings m_s, with p = softmax(W h + h) and h = LeakyReLU(w z + b)
    (AutoDis: Guo et al. 2021, "An embedding learning framework for numerical features in CTR prediction",
    section 3.2). The paper's skip connection has the factor 1 here, its temperature is left to W and w, and b
    is added: z is centred, and without it nothing but the mean could separate two buckets.
    """

    def __init__(self, fields: int, width: int, config: CTRConfig) -> None:
        super().__init__()
        size = config.numeric_size
        self.scores = nn.Parameter(torch.empty(fields, size).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(fields, size).uniform_(-1, 1))
        self.mixing = _xavier(fields, size, size)
        # A mean of S of them is then about as large as a row of the tables
        self.meta = nn.Parameter(torch.randn(fields, size, width) * _ROW_STD * math.sqrt(size))

    def forward(self, numbers: Tensor) -> Tensor:
        """numbers [B, K] of at least float32 → [B, K, d], in the weights' type."""
        scores, bias = self.scores.to(numbers.dtype), self.bias.to(numbers.dtype)
        hidden = F.leaky_relu(scores * numbers.unsqueeze(2) + bias)  # [B, K, S]
        mixed = torch.einsum("bks,kst->bkt", hidden, self.mixing.to(numbers.dtype)) + hidden
        return torch.einsum("bks,ksd->bkd", mixed.softmax(2).to(self.meta.dtype), self.meta)


def _xavier(fields: int, inputs: int, outputs: int) -> nn.Parameter:
    """Draw a matrix for each field, [fields, inputs, outputs], as layers.linear does for one."""
    bound = math.sqrt(6 / (inputs + outputs))
    return nn.Parameter(torch.empty(fields, inputs, outputs).uniform_(-bound, bound))


EMBEDDERS: dict[str, type[PeriodicNumbers] | type[SoftBuckets]] = {
    "periodic": PeriodicNumbers,
    "soft_buckets": SoftBuckets,
}

"""Layers that the CTR backbones share.

Shape legend: B rows, F fields, d embedding size.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ALL_ROWS",
    "MLP",
    "NO_ROWS",
    "PackedEmbedding",
    "at_least_float32",
    "bi_interaction",
    "gather_rows",
    "inner_products",
    "linear",
    "starts",
]

ALL_ROWS = slice(None)
NO_ROWS = slice(0, 0)

# A standard deviation of 1 drives softmaxes into denormals, which makes CPU matmuls several times slower
_EMBEDDING_STD = 0.02
_BLOCK_ROWS = 2**16  # of a table of which only some rows are kept
_FEW = 16  # torch draws fewer numbers than these in another way


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Map table [N, d], rows of any shape → [..., d]."""
    if table.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler writes its own backward
        return F.embedding(rows, table)
    return _GatherRows.apply(table, rows)  # pyright: ignore[reportReturnType]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return bf16 and fp16 as float32, in which losses are summed; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _GatherRows(torch.autograd.Function):
    """F.embedding with a backward that sums each row's gradients in one go. On CPUs torch's own adds them one
    by one, in twice the time.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(table)
        return F.embedding(rows, table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = ctx.saved_tensors[0].numpy().ravel().astype(np.int64)
        keys = (rows << 32) | np.arange(len(rows))
        # Sort rows and their places together: several times faster than an argsort
        keys.sort()
        rows = keys >> 32
        starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
        places = torch.from_numpy(keys & (2**32 - 1))
        gradient = gradient.reshape(len(rows), -1)
        whole = gradient.new_zeros(ctx.num_rows, gradient.shape[1])
        whole[torch.from_numpy(rows[starts])] = F.embedding_bag(
            places, gradient, torch.from_numpy(starts), mode="sum"
        )
        return whole, None


class PackedEmbedding(nn.Module):
    """Embed_Layer of Eq. 5: all fields' embeddings in one table. Field j's ids start at the sum of the
    earlier sizes.
    """

    offsets: Tensor

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int,
        rows: slice = ALL_ROWS,
        more: Sequence[int] = (),
    ) -> None:
        """more: the fields of further columns of ids, behind those of the F fields.

        rows: those that `weight` has, [start, None, step]; only with all of them can ids be looked up.
        Each row is the same whichever others there are. NO_ROWS is for weights that are set next.
        """
        super().__init__()
        self.num_rows = sum(field_sizes)
        self.weight = nn.Parameter(_fresh_rows(self.num_rows, embedding_dim, rows))
        offsets = torch.tensor([0, *field_sizes[:-1]], dtype=torch.int64).cumsum(0)
        if more:
            offsets = torch.cat([offsets, offsets[list(more)]])
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, field_ids: Tensor, fields: Tensor | None = None) -> Tensor:
        """Map field_ids [B, F] int64, each field counted from 0 → field_embeddings [B, F, d].

        With `fields`, ids of any shape and the field of each → [..., d].
        """
        return gather_rows(self.weight, field_ids + starts(self.offsets, fields))


def _fresh_rows(num_rows: int, width: int, rows: slice) -> Tensor:
    """Draw a table, and keep some of its rows: [rows, width]. Then it is never whole in memory."""
    chosen = range(num_rows)[rows]
    kept = torch.empty(len(chosen), width)
    if rows == ALL_ROWS:
        return nn.init.normal_(kept, std=_EMBEDDING_STD)
    filled, begin = 0, 0
    while begin < num_rows and rows != NO_ROWS:  # to the end, for the random numbers of what comes next
        end = begin + _BLOCK_ROWS
        if (num_rows - end) * width < _FEW:
            end = num_rows
        # Blocks of multiples of 16 numbers are drawn as the whole is
        block = nn.init.normal_(torch.empty(end - begin, width), std=_EMBEDDING_STD)
        part = block[(chosen.start - begin) % chosen.step :: chosen.step]
        kept[filled : filled + len(part)] = part
        filled, begin = filled + len(part), end
    return kept


def starts(offsets: Tensor, fields: Tensor | None) -> Tensor:
    """Return where the ids of each column, or of each of the given fields, start in a packed table."""
    return offsets if fields is None else offsets[fields]


class MLP(nn.Module):
    """Linear layers of the widths `hidden_dims`, each followed by ReLU and dropout. The output is the last
    hidden layer.
    """

    def __init__(self, input_dim: int, hidden_dims: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            linear(inputs, outputs) for inputs, outputs in pairwise((input_dim, *hidden_dims))
        )
        self.dropout = dropout
        self.output_dim = hidden_dims[-1]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.linears:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return x


def bi_interaction(field_embeddings: Tensor) -> Tensor:
    """Return Σ_{i<j} e_i ⊙ e_j = ½((Σ_i e_i)² − Σ_i e_i²): [B, F, d] → [B, d]."""
    return 0.5 * (field_embeddings.sum(1).square() - field_embeddings.square().sum(1))


def inner_products(field_embeddings: Tensor) -> Tensor:
    """Return ⟨e_i, e_j⟩ for i < j in row-major order: [B, F, d] → [B, F(F−1)/2]."""
    num_fields = field_embeddings.shape[1]
    rows, columns = torch.triu_indices(num_fields, num_fields, 1, device=field_embeddings.device)
    return (field_embeddings @ field_embeddings.mT).flatten(1).index_select(1, rows * num_fields + columns)


def linear(input_dim: int, output_dim: int, bias: bool = True) -> nn.Linear:
    """Build a linear layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(input_dim, output_dim, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer

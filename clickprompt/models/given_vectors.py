"""Given vectors of feature values in the CTR tower (`ctr.vectors`): images and the like as features.

    e_j(x) = E[x] + W_j v[x]        for value x of field j

E are the ids' embeddings of Eq. 5, v[x] the value's given vector (data/prepared/given_vectors.py), and W_j a
trained matrix of the field's own. W_j is 0 at first and has no bias, so training begins with the tower
without vectors, and where v[x] is 0, as for unknown values, nothing is added. The sum stands for E[x]
wherever the tower reads an id: also among a history's items, and among the candidates for a hidden id. Linear
terms (FM, DeepFM, xDeepFM) read ids alone.

As v is fixed, E[x] + W_j v[x] is one row for each value. An export has these rows in E's place (`fold`), so
whoever scores needs no v.

Shape legend: B rows, C columns of ids, N values of a field, H size of a vector, d width of the table.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GIVEN", "GivenVectors", "Tables", "fold"]

GIVEN = "ctr.vectors."
"""how the names of all W_j in a model begin; an export has none"""
_TABLE = "ctr.embedding.weight"
_BLOCK_ROWS = 2**16  # values whose vectors are in memory

Tables = Mapping[int, np.ndarray | Tensor]
"""field → v, [N, H]"""


class _Projection(nn.Module):
    """W v of one field. A module of its own, so that ZeRO 3 gathers W for it."""

    def __init__(self, table: np.ndarray | Tensor, width: int) -> None:
        super().__init__()
        self.table = torch.as_tensor(table)  # no buffer, which DistributedDataParallel would send
        self.weight = nn.Parameter(torch.zeros(self.table.shape[1], width))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.table = fn(self.table)
        return super()._apply(fn, recurse)

    def forward(self, ids: Tensor) -> Tensor:
        """ids of the field, any shape → [..., d]."""
        return F.embedding(ids, self.table).to(self.weight.dtype) @ self.weight


class GivenVectors(nn.Module):
    """W_j v for each field j whose values have vectors."""

    def __init__(self, tables: Tables, column_fields: Sequence[int], width: int) -> None:
        """column_fields: the field of each column of ids, [C]."""
        super().__init__()
        self.of_field = nn.ModuleDict(
            {str(field): _Projection(table, width) for field, table in tables.items()}
        )
        self.columns = [
            [place for place, other in enumerate(column_fields) if other == field] for field in tables
        ]

    def forward(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """embeddings [B, C, d] of ids [B, C], each field counted from 0 → E + W v, [B, C, d]."""
        columns = list(embeddings.unbind(1))
        for projection, places in zip(self.of_field.values(), self.columns, strict=True):
            added = projection(ids[:, places]).to(embeddings.dtype)
            for place, more in zip(places, added.unbind(1), strict=True):
                columns[place] = columns[place] + more
        return torch.stack(columns, 1)

    def of(self, embeddings: Tensor, ids: Tensor, fields: Tensor) -> Tensor:
        """embeddings [..., d] of ids of the given fields, both [...] → E + W v, [..., d]."""
        for field, projection in self.of_field.items():
            added = projection(torch.where(fields == int(field), ids, 0))  # v[0] is 0
            embeddings = embeddings + added.to(embeddings.dtype)
        return embeddings


@torch.no_grad()
def fold(weights: dict[str, Tensor], tables: Tables, field_sizes: Sequence[int]) -> None:
    """Turn the E[x] among a model's weights into E[x] + W_j v[x], and drop the W_j; tables: field → v."""
    for field, vectors in tables.items():
        projection = weights.pop(f"{GIVEN}of_field.{field}.weight", None)
        if projection is None:  # pretraining without prompts has no CTR tower
            continue
        first, table = sum(field_sizes[:field]), weights[_TABLE]
        for start in range(0, len(vectors), _BLOCK_ROWS):
            some = torch.as_tensor(vectors[start : start + _BLOCK_ROWS]).to(table.dtype)
            table[first + start : first + start + len(some)] += some @ projection.to(table.dtype)

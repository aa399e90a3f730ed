"""What the CTR tower makes of a field's several values (`ctr.pooling`): one embedding, the field's.

Shape legend: B rows, M values of a row at most, d width of the table.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clickprompt.config import Multi

__all__ = ["pooled", "pooled_fields"]


def pooled(embeddings: Tensor, present: Tensor, kind: str) -> Tensor:
    """Pool the present ones of each row's embeddings, of which there is at least one: their mean, their sum
    or the largest (max) of each entry. embeddings [B, M, d], present [B, M] bool → [B, d].
    """
    there = present.unsqueeze(2)
    if kind == "max":
        return embeddings.masked_fill(~there, -torch.inf).amax(1)
    total = (embeddings * there.to(embeddings.dtype)).sum(1)
    return total if kind == "sum" else total / there.sum(1).to(embeddings.dtype)


def pooled_fields(
    embeddings: Tensor, field_ids: Tensor, num_fields: int, multi: Sequence[Multi], kind: str
) -> Tensor:
    """Return the fields' embeddings: those of the values, the further ones behind the F fields' own, with the
    values of each field in `multi` pooled. embeddings [B, F + V, d], field_ids [B, F + V] → [B, F, d].

    A row without any value has the embedding of id 0 there, as a missing value of any field.
    """
    of_fields = list(embeddings[:, :num_fields].unbind(1))
    start = num_fields
    for one in multi:
        stop = start + one.most - 1
        values = torch.cat([embeddings[:, one.field : one.field + 1], embeddings[:, start:stop]], 1)
        own = torch.ones_like(field_ids[:, :1], dtype=torch.bool)
        of_fields[one.field] = pooled(values, torch.cat([own, field_ids[:, start:stop] > 0], 1), kind)
        start = stop
    return torch.stack(of_fields, 1)

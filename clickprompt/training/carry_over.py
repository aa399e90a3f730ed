"""Carry embeddings over from one dataset to another with the same fields.

Rows of the tables are matched by value, not by id.
"""

# pyarrow.compute creates its functions when it is imported, so pyright doesn't see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.models.layers import PackedEmbedding

__all__ = ["FieldCarried", "carry_rows", "match_values", "tables_of", "values_of"]


@dataclass(frozen=True)
class FieldCarried:
    """Numbers of values of one field, without the unknown id."""

    field: str
    kept: int  # in both
    new: int  # only in the new dataset: each starts as the field's unknown id
    gone: int  # only in the earlier dataset


def values_of(dataset: Dataset) -> dict[str, pa.Array]:
    """Field name → the text of every id, beginning with the unknown id 0."""
    return {
        name: dataset.vocabulary(number).column("value").combine_chunks()
        for number, name in enumerate(dataset.field_names)
    }


def match_values(
    before: dict[str, pa.Array], now: dict[str, pa.Array]
) -> tuple[np.ndarray, list[FieldCarried]]:
    """Find, for every row of the packed table of `now`, the row of `before`'s table that it starts as.

    Returns [sum of the field sizes now] int64, field after field as in PackedEmbedding, and counts per field.
    Id 0 stays the unknown id, whatever its text is, and new values start as it.
    """
    assert list(before) == list(now), "the fields differ"
    rows, carried, start = [], [], 0
    for name, values in now.items():
        known = before[name].slice(1)
        found = pc.index_in(values.slice(1), value_set=known).fill_null(-1).to_numpy() + 1
        kept = int((found > 0).sum())
        rows.append(start + np.concatenate([[0], found]).astype(np.int64))
        carried.append(FieldCarried(name, kept, len(found) - kept, len(known) - kept))
        start += len(before[name])
    return np.concatenate(rows), carried


def tables_of(model: nn.Module) -> list[str]:
    """Names of the tensors that have one row per feature value."""
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, PackedEmbedding)]


def carry_rows(weights: dict[str, Tensor], tables: Iterable[str], rows: np.ndarray) -> dict[str, Tensor]:
    """Return `weights`, with the tensors named in `tables` replaced by their rows `rows`."""
    index = torch.from_numpy(rows)
    return weights | {name: weights[name][index] for name in tables if name in weights}

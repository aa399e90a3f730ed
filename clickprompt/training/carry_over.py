"""Embeddings that were trained on one dataset, for another one with the same fields: rows of the tables are
matched by value, not by id.
"""

# pyarrow.compute makes its functions when it is imported
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
    """Values of a field, the unknown id apart."""

    field: str
    kept: int  # in both
    new: int  # only now: each starts as the field's unknown id
    gone: int  # only before


def values_of(dataset: Dataset) -> dict[str, pa.Array]:
    """Field name → the text of every id, the unknown id 0's first."""
    return {
        name: dataset.vocabulary(number).column("value").combine_chunks()
        for number, name in enumerate(dataset.field_names)
    }


def match_values(
    before: dict[str, pa.Array], now: dict[str, pa.Array]
) -> tuple[np.ndarray, list[FieldCarried]]:
    """For every row of the packed table of `now`, the row of that of `before` it starts as: [sum of the field
    sizes now] int64.

    Field after field as in PackedEmbedding. Id 0 stays the unknown one, whatever its text is, and new values
    start as it.
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
    """`weights` with those of `tables` that are there made of the given rows; the others as they are."""
    index = torch.from_numpy(rows)
    return weights | {name: weights[name][index] for name in tables if name in weights}

"""What a finetuning takes over from the run it starts from (`finetune.init`), and at what scale.

Pretrained tables arrive larger than fresh ones, and they have rows that no training row ever touched. In this
order, for each table and each field with n trained rows (train_count > 0) of width d:

    scale    w ← w · s / σ for all rows of the field, σ² = Σ (w − w̄)² / (n d), w̄ = Σ w / (n d), both over the
             trained rows
    unseen   mean: the rows with train_count 0 ← the mean of the trained rows; unknown: ← the field's row 0

Row 0 is the unknown id, not a value: `unseen` leaves it as it is. A field without a trained row stays as it
is, and `scale` leaves one whose σ is 0. Sums are numpy's in float64, on one thread: all workers get the same
bits.
"""

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clickprompt.config import FinetuneConfig, StageConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.training.carry_over import carry_rows, match_values, values_of

__all__ = ["chosen_parts", "chosen_rows", "deviations", "prepare_tables", "start_weights", "trained_rows"]

_BLOCK_ROWS = 2**16  # rows that are widened to float64 at a time

Parts = Literal["all", "tables", "tower"]
Unseen = Literal["own", "mean", "unknown"]


def start_weights(
    weights: dict[str, Tensor],
    tables: Collection[str],
    dataset: Dataset,
    earlier: Dataset | None,
    stage: StageConfig,
) -> dict[str, Tensor]:
    """Return what a run on `dataset` takes over of an export's weights.

    These were trained on `earlier`, if that isn't `dataset`. `tables` are the tensors with a row per feature
    value.
    """
    rows = None
    if earlier is not None:
        rows, _ = match_values(values_of(earlier), values_of(dataset))
        weights = carry_rows(weights, tables, rows)
    if not isinstance(stage, FinetuneConfig):
        return weights
    weights = chosen_parts(weights, tables, stage.init_parts)
    if stage.init_scale is None and stage.init_unseen == "own":
        return weights
    trained = trained_rows(dataset, earlier, rows)
    return prepare_tables(weights, tables, trained, stage.init_scale, stage.init_unseen)


def chosen_parts(weights: dict[str, Tensor], tables: Collection[str], parts: Parts) -> dict[str, Tensor]:
    """Return the tensors that are copied. Those outside of the CTR tower (`ctr.`) always are."""
    kept = {"all": (True, True), "tables": (True, False), "tower": (False, True)}[parts]
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith("ctr.") or kept[0 if name in tables else 1]
    }


def trained_rows(
    dataset: Dataset, earlier: Dataset | None = None, rows: NDArray[np.int64] | None = None
) -> list[NDArray[np.bool_]]:
    """Find the rows of `dataset`'s packed table that a training on `earlier` (default: the same) has seen.

    rows: as from `match_values`, if `earlier` is given. A value that only the new dataset has was not seen.
    Returns [size] per field.
    """
    seen = [counts > 0 for counts in (earlier or dataset).train_counts()]
    if rows is None:
        return seen
    found = []
    whole, bounds = np.concatenate(seen), _bounds(dataset.field_sizes)
    starts = _bounds([len(of_field) for of_field in seen])
    for (begin, end), start in zip(pairwise(bounds), starts, strict=False):
        of_field = whole[rows[begin:end]]
        of_field[1:] &= rows[begin + 1 : end] != start  # new values start as the unknown id
        found.append(of_field)
    return found


def chosen_rows(trained: Sequence[NDArray[np.bool_]], rows: slice) -> list[NDArray[np.bool_]]:
    """Return what `trained`, [size] per field, says of some rows of the packed table."""
    start, _, step = rows.indices(sum(len(of_field) for of_field in trained))
    begins = _bounds([len(of_field) for of_field in trained])
    firsts = [(start - begin) % step for begin in begins]
    return [of_field[first::step] for first, of_field in zip(firsts, trained, strict=False)]


def prepare_tables(
    weights: dict[str, Tensor],
    tables: Collection[str],
    trained: Sequence[NDArray[np.bool_]],
    scale: float | None,
    unseen: Unseen,
) -> dict[str, Tensor]:
    """Return `weights` with the tables scaled and their untrained rows set, as this file's docstring says.

    trained: [size] per field, as from `trained_rows`.
    """
    own = [name for name in tables if name in weights]
    return weights | {name: _prepared(weights[name], trained, scale, unseen) for name in own}


def deviations(table: Tensor, trained: Sequence[NDArray[np.bool_]]) -> list[float | None]:
    """Compute σ of this file's docstring for each field of a table [sum of the sizes, d].

    None where a field has no trained row.
    """
    values = table.detach().numpy()
    bounds = _bounds([len(of_field) for of_field in trained])
    return [
        _deviation(values[begin:end], of_field)
        for (begin, end), of_field in zip(pairwise(bounds), trained, strict=True)
    ]


def _prepared(
    table: Tensor, trained: Sequence[NDArray[np.bool_]], scale: float | None, unseen: Unseen
) -> Tensor:
    values = table.numpy().copy()
    bounds = _bounds([len(of_field) for of_field in trained])
    for (begin, end), of_field in zip(pairwise(bounds), trained, strict=True):
        rows = values[begin:end]  # a view
        found = _deviation(rows, of_field)
        if found is None:
            continue
        if scale is not None and found > 0:
            rows *= scale / found
        missing = ~of_field
        missing[0] = False
        if unseen == "mean":
            rows[missing] = rows[of_field].mean(0, dtype=np.float64)
        elif unseen == "unknown":
            rows[missing] = rows[0]
    return torch.from_numpy(values)


def _deviation(rows: NDArray[np.float32], trained: NDArray[np.bool_]) -> float | None:
    """Compute σ of a field's rows in blocks: a float64 copy of all might not fit."""
    count = int(trained.sum()) * rows.shape[1]
    if not count:
        return None
    starts = range(0, len(rows), _BLOCK_ROWS)

    def block(start: int) -> NDArray[np.float64]:
        chosen = slice(start, start + _BLOCK_ROWS)
        return rows[chosen][trained[chosen]].astype(np.float64)

    mean = sum(block(start).sum() for start in starts) / count
    return math.sqrt(sum(np.square(block(start) - mean).sum() for start in starts) / count)


def _bounds(sizes: Sequence[int]) -> list[int]:
    return [0, *np.cumsum(sizes).tolist()]

"""Where a batch's targets are, as positions. A device that looks for them by a mask has to be waited for,
since only it knows how many there are.

Shape legend: B rows, F fields, Z tokens of the longest row, R states read, T the most states read of a row,
M targets of language modelling, C cells to be restored, S states read at cells' values.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Cells", "Reading", "read_places"]


@dataclass(frozen=True)
class Cells:
    """The true ones of cells [B, F], field by field, and by row within a field."""

    numbers: Tensor  # [C] int64, row · F + field
    per_field: tuple[int, ...]  # F numbers, of sum C

    @classmethod
    def of(cls, cells: np.ndarray) -> "Cells":
        fields, rows = np.nonzero(cells.T)
        return cls(
            torch.from_numpy(rows * cells.shape[1] + fields),
            tuple(cells.sum(axis=0, dtype=np.int64).tolist()),
        )


@dataclass(frozen=True)
class Reading:
    """The hidden states that pretraining reads, R in row-major order, and what each is for."""

    positions: Tensor  # [B, T] int64, of each row the places that are read, in order, and then others
    numbers: Tensor  # [R] int64, which of these B · T are read
    targets: Tensor  # [M] int64, which of the R are targets of language modelling
    target_ids: Tensor  # [M] int64, the token of each
    at_cells: Tensor  # [S] int64, which of the R are read for the text of a cell (`Batch.text_id_cells`)
    cells: Tensor  # [S] int64, which of the C cells it is

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        ignored: int,
        value_fields: np.ndarray | None = None,
        cells: np.ndarray | None = None,
    ) -> "Reading":
        """Read the targets, which are the labels [B, Z] other than `ignored`, and the values' tokens, by
        value_fields [B, Z] (−1: of none), of cells [B, F] bool.
        """
        targets = labels != ignored
        number = np.full(targets.shape, -1)
        if cells is not None:
            assert value_fields is not None
            number = _numbers_of_tokens(value_fields, cells)
        read = targets | (number >= 0)
        positions, numbers = read_places(read)
        return cls(
            positions,
            numbers,
            *(
                torch.from_numpy(values)
                for values in (
                    np.flatnonzero(targets[read]),
                    labels[targets],
                    np.flatnonzero(number[read] >= 0),
                    number[number >= 0],
                )
            ),
        )


def read_places(read: np.ndarray) -> tuple[Tensor, Tensor]:
    """Map read [B, Z] bool to `positions` and `numbers` of `Reading`; T is at least 1."""
    counts = read.sum(axis=1)
    most = max(int(counts.max(initial=0)), 1)
    positions = np.argsort(~read, axis=1, kind="stable")[:, :most]
    numbers = np.flatnonzero(np.arange(most) < counts[:, None])
    return torch.from_numpy(positions.copy()), torch.from_numpy(numbers)


def _numbers_of_tokens(value_fields: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the number of each token's cell in the order of `Cells`, or −1: [B, Z]."""
    number = np.full(cells.shape, -1)
    number.T[cells.T] = np.arange(cells.sum())
    chosen = np.take_along_axis(number, np.maximum(value_fields, 0).astype(np.int64), axis=1)
    return np.where(value_fields >= 0, chosen, -1)

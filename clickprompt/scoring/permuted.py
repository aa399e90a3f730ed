"""A split with one field's values permuted among all its rows, row group by row group."""

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared.dataset import Dataset

__all__ = ["PermutedField"]


class PermutedField:
    """One permutation of one field of a split, which whoever scores a row group draws for itself.

    Its values stay as often as they are, and keep nothing of what they have to do with the rows.
    """

    def __init__(self, dataset: Dataset, split: str, field: int, repeat: int, seed: int) -> None:
        """field: its number; repeat, seed: which permutation of the field."""
        self._column = dataset.columns[field]
        values = pa.concat_tables(dataset.shard_tables(split, [self._column]))[self._column].to_numpy()
        self._values = values[np.random.default_rng((seed, field, repeat)).permutation(len(values))]
        ends = np.cumsum(dataset.row_group_counts(split))
        self._starts = ends - dataset.row_group_counts(split)

    def of(self, group: int, rows: pa.Table) -> pa.Table:
        """Return the rows of a row group with their permuted values."""
        start = self._starts[group]
        values = pa.array(self._values[start : start + len(rows)])
        return rows.set_column(rows.column_names.index(self._column), rows.schema.field(self._column), values)

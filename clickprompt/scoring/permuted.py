"""A split with one field's values, or its histories, permuted among all its rows, row group by row group."""

import numpy as np
import pyarrow as pa

from clickprompt.config import multi_columns, number_columns
from clickprompt.data.prepared.dataset import Dataset

__all__ = ["PermutedField"]


class PermutedField:
    """One permutation of one field of a split, which whoever scores a row group draws for itself.

    Its values stay as often as they are, and keep nothing of what they have to do with the rows.
    """

    def __init__(self, dataset: Dataset, split: str, field: int, repeat: int, seed: int) -> None:
        """field: its number, or the one after the last for the histories; repeat, seed: which permutation of
        the field.
        """
        numbers = zip(number_columns(dataset.numbers), dataset.numbers, strict=True)
        further = {**multi_columns(dataset.multi), **dict(numbers)}
        of_fields = [
            [column, *(name for name, of in further.items() if of == number)]
            for number, column in enumerate(dataset.columns)
        ]
        values = pa.concat_tables(
            dataset.shard_tables(split, [*of_fields, dataset.history_columns][field])
        ).combine_chunks()
        order = np.random.default_rng((seed, field, repeat)).permutation(len(values))
        self._values = values.take(pa.array(order))
        ends = np.cumsum(dataset.row_group_counts(split))
        self._starts = ends - dataset.row_group_counts(split)

    def of(self, group: int, rows: pa.Table) -> pa.Table:
        """Return the rows of a row group with their permuted values."""
        start = self._starts[group]
        values = self._values.slice(start, len(rows))
        for name in values.column_names:
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values[name])
        return rows

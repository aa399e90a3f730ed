"""Read from the footers of Parquet files what they say of all rows: how many there are, missing values, the
smallest and the largest value.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from clickprompt.data.sources.parquet_files import RowGroups
from clickprompt.data.sources.raw import RawPart
from clickprompt.errors import InputError
from clickprompt.io import storage

__all__ = ["ColumnStatistics", "FileStatistics", "read_statistics"]


@dataclass
class ColumnStatistics:
    """Statistics of a column. `nulls`, `lowest` and `highest` are None if not all row groups have them."""

    nulls: int | None = 0
    lowest: Any = None
    highest: Any = None
    complete: bool = True  # every row group has its lowest and highest, or only nulls

    def add(self, statistics: Any, rows: int) -> None:
        nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
        self.nulls = None if nulls is None or self.nulls is None else self.nulls + nulls
        if nulls == rows:
            return
        if statistics is None or not statistics.has_min_max or not self.complete:
            self.complete, self.lowest, self.highest = False, None, None
            return
        try:
            self.lowest = statistics.min if self.lowest is None else min(self.lowest, statistics.min)
            self.highest = statistics.max if self.highest is None else max(self.highest, statistics.max)
        except TypeError:  # the type differs between files
            self.complete, self.lowest, self.highest = False, None, None


@dataclass
class FileStatistics:
    """Statistics of all files: `rows`, `row_groups`, and `columns` for those with one value per row."""

    rows: int
    row_groups: int
    columns: dict[str, ColumnStatistics]


def read_statistics(parts: Sequence[RawPart], wanted: Iterable[str]) -> FileStatistics | None:
    """Read only the footers; return None if the log isn't Parquet. The statistics of a damaged file are
    missing; reading its rows reports the damage.
    """
    groups = [part for part in parts if isinstance(part, RowGroups)]
    if not groups or len(groups) < len(parts):
        return None
    found = FileStatistics(0, 0, {name: ColumnStatistics() for name in wanted})
    for uri in dict.fromkeys(part.uri for part in groups):
        try:
            with storage.open_input(uri) as stream:
                metadata = pq.ParquetFile(stream).metadata
                found.rows += metadata.num_rows
                found.row_groups += metadata.num_row_groups
                for number in range(metadata.num_row_groups):
                    _add(found, metadata.row_group(number))
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            return None
    return found


def _add(found: FileStatistics, group: Any) -> None:
    columns = {group.column(place).path_in_schema: group.column(place) for place in range(group.num_columns)}
    for name, total in found.columns.items():
        statistics = columns[name].statistics if name in columns else None
        total.add(statistics, group.num_rows)

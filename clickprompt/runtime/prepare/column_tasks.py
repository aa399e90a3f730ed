"""The tasks of `prepare` on one partition of a log column's values (data/prepared/partitions.py): number
them, count the rows that have them, and give them ids.

prepare.py has them run (fan_out.py). A task that runs a second time, because its worker died, writes the same
again.
"""

# pyarrow.compute creates its functions when it is imported, so pyright doesn't see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.prepared.partitions import Coded, by_partition
from clickprompt.data.prepared.staging import log_column
from clickprompt.io import storage

__all__ = [
    "CountedRows",
    "KeptValues",
    "codes_in_file",
    "ids_file",
    "keep_values",
    "merge_column",
    "rows_per_value",
    "scatter_values",
    "values_of",
    "write_ids",
    "write_kept",
]


def scatter_values(file: str, number: int, names: Mapping[int, str], partitions: int, stage: str) -> None:
    """Write the values of a parsed file's columns by partition.

    number: the file's; names: place → name of the columns.
    """
    for place, name in names.items():
        values = staging.dictionary(file, log_column(name))
        pieces = ([values.take(pa.array(found))] for found in by_partition(values, partitions))
        staging.write_columns(_scattered(stage, place, number), ["value"], pieces)


def _scattered(stage: str, place: int, number: int) -> str:
    return f"{stage}/scattered/{place:02d}-{number:06d}.arrow"


def merge_column(
    files: Sequence[str],
    name: str,
    place: int,
    partition: int,
    partitions: int,
    known: pa.Array | None,
    stage: str,
) -> int:
    """Number the values of one partition of a log column; write them, and the codes of each file's values.

    Returns how many values there are. `known` values, of a table, aren't written, and no others are added.
    """
    null = [None] if partition == 0 else []
    values = pa.array(null, pa.string()) if known is None else known
    numbering = staging.Numbering(values, grows=known is None)
    if partitions == 1:
        dictionaries = (staging.dictionary(file, log_column(name)) for file in files)
    else:
        pieces = (_scattered(stage, place, number) for number in range(len(files)))
        dictionaries = (staging.read_batch(piece, partition).column("value") for piece in pieces)
    codes = ([codes] for codes in numbering.codes(dictionaries))
    staging.write_columns(_codes(stage, place, partition), ["code"], codes)
    if known is None:
        staging.write_columns(_values(stage, place, partition), ["value"], [[numbering.values]])
    return len(numbering.values)


def _codes(stage: str, place: int, partition: int) -> str:
    return f"{stage}/codes/{place:02d}-{partition:04d}.arrow"


def _values(stage: str, place: int, partition: int) -> str:
    return f"{stage}/values/{place:02d}-{partition:04d}.arrow"


def values_of(column: Coded, partition: int, stage: str) -> pa.Array:
    """Return the values of one partition, in the order of their codes."""
    return staging.read_batch(_values(stage, column.place, partition), 0).column("value")


def codes_in_file(column: Coded, rows: pa.Table, number: int, stage: str) -> np.ndarray:
    """Return [V + 1] int32: the codes of a parsed file's values, and of null; `number`: the file's."""
    dictionary = rows.column(log_column(column.name)).chunk(0).dictionary
    codes = np.empty(len(dictionary) + 1, dtype=np.int32)
    for partition, found in enumerate(by_partition(dictionary, column.partitions)):
        local = staging.read_batch(_codes(stage, column.place, partition), number).column("code").to_numpy()
        codes[found] = local + np.int32(column.starts[partition])
    codes[-1] = -1 if column.in_table else 0
    return codes


@dataclass(frozen=True)
class CountedRows:
    """The files of `tasks.count_rows`, one per coded file, and the columns that were counted."""

    files: Sequence[str]
    columns: Sequence[Coded]

    def column(self, name: str) -> Coded:
        return next(column for column in self.columns if column.name == name)

    def of_partition(self, name: str, partition: int, length: int) -> np.ndarray:
        """Return [splits, length] int64: the rows of the codes of one partition."""
        column = self.column(name)
        before = sum(other.partitions for other in self.columns[: self.columns.index(column)])
        first = column.starts[partition] * len(SPLITS)
        totals = np.zeros(len(SPLITS) * length, dtype=np.int64)
        for file in self.files:
            found = staging.read_batch(file, before + partition)
            totals[found.column("pair").to_numpy() - first] += found.column("rows").to_numpy()
        return np.ascontiguousarray(totals.reshape(length, len(SPLITS)).T)

    def of_column(self, name: str, length: int | None = None) -> np.ndarray:
        """Return [splits, codes] int64: the rows of all codes.

        length: the codes, where the column's table has an empty last row for unmatched rows.
        """
        column = self.column(name)
        if length is not None:
            return self.of_partition(name, 0, length)
        sizes = np.diff(column.starts).tolist()
        return np.concatenate(
            [self.of_partition(name, partition, size) for partition, size in enumerate(sizes)], axis=1
        )


@dataclass(frozen=True)
class KeptValues:
    """What a field's manifest entry needs to know of a partition, whose kept values and ids are in files."""

    kept: str
    ids: str
    first_code: int
    values: int
    """kept values"""
    unknown: int
    """training rows without any of them"""
    null: bool
    """whether a code stands for a missing value"""
    missing: np.ndarray
    """rows without a value, [splits]"""
    unseen: np.ndarray
    """rows with a value that no training row has, [splits]"""


def keep_values(
    name: str, partition: int, number: int, counted: CountedRows, least: int, stage: str
) -> KeptValues:
    """Give ids to the values of one partition of a log column; `number`: the field's."""
    column = counted.column(name)
    values = values_of(column, partition, stage)
    rows = counted.of_partition(name, partition, len(values))
    return write_kept(
        values, np.asarray(rows.any(axis=0)), rows, least, stage, number, partition, column.starts[partition]
    )


def write_kept(
    column: pa.Array,
    chosen: np.ndarray,
    rows: np.ndarray,
    least: int,
    stage: str,
    number: int,
    partition: int = 0,
    first_code: int = 0,
) -> KeptValues:
    """Give ids from 1 to the distinct values of `column` that have at least `least` training rows (1: or
    none), in its order; write the values and each code's id.

    column: each code's value; chosen: [codes] bool, those that may give values; rows: [splits, codes];
    number: the field's.
    """
    found, value, per_value = rows_per_value(column, chosen, rows)
    missing, per_value = per_value[:, -1], per_value[:, :-1]
    train = per_value[0]
    kept = train >= least if least > 1 else np.ones(len(found), dtype=bool)
    ids = np.zeros(len(column), dtype=np.int32)
    ids[chosen] = np.append(np.where(kept, np.cumsum(kept), 0), 0)[value]
    return KeptValues(
        *write_ids(found.filter(pa.array(kept)), train[kept], ids, stage, number, partition),
        first_code,
        values=int(kept.sum()),
        unknown=int(missing[0] + train[~kept].sum()),
        null=bool((value == len(found)).any()),
        missing=missing,
        unseen=per_value[:, train == 0].sum(axis=1),
    )


def write_ids(
    values: pa.Array, train_count: np.ndarray, ids: np.ndarray, stage: str, number: int, partition: int = 0
) -> tuple[str, str]:
    """Write a field's values in the order of their ids with their training rows, and each code's id; return
    where.
    """
    kept, of_codes = f"{stage}/kept/{number:02d}-{partition:04d}.arrow", ids_file(stage, number, partition)
    staging.write_columns(kept, ["value", "train_count"], [[values, train_count]])
    storage.write_bytes(of_codes, ids.astype(np.int32).tobytes())
    return kept, of_codes


def ids_file(stage: str, number: int, partition: int = 0) -> str:
    return f"{stage}/ids/{number:02d}-{partition:04d}"


def rows_per_value(
    column: pa.Array, chosen: np.ndarray, rows: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return (distinct values [V] of the chosen codes, the index of each chosen code's value or V for none,
    rows of each value [splits, V + 1]).

    column: each code's value; chosen: [codes] bool; rows: [splits, codes].
    """
    encoded: Any = column.filter(pa.array(chosen)).dictionary_encode()
    distinct = len(encoded.dictionary)
    value = encoded.indices.fill_null(distinct).to_numpy()
    sums = [np.bincount(value, weights=counts[chosen], minlength=distinct + 1) for counts in rows]
    return encoded.dictionary, value, np.stack(sums).astype(np.int64)

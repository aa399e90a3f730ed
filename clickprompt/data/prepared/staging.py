"""The files (Arrow IPC) that a raw log passes through on its way to a prepared dataset. A process that works
on them holds one file's rows, never the whole log's.

- parsed/<part>-<n>.arrow: row_id (counted within the part), label, timestamp, one dictionary-encoded string
  column per log column.
- scattered/<file>-<column>.arrow: the distinct values of one column of a parsed file, one record batch per
  partition (data/prepared/partitions.py); only if there are several.
- codes/<column>-<partition>.arrow: their codes within the partition, one record batch per parsed file; and
  values/<column>-<partition>.arrow: the values in the order of these codes.
- coded/<part>-<n>.arrow: row_id (of the log), label, timestamp, split_key, one int32 code per log column.
- counts/<coded file>.arrow: code · splits + split, and the rows that have both, of the pairs that occur; one
  record batch per column and partition.
- kept/<field>-<partition>.arrow: a field's values in the order of their ids, and their training rows; and
  ids/<field>-<partition>: int32, the id of each code within the partition.
- sorted/<part>-<n>.arrow: the same with `order`, one record batch per shard: batch i of every file.

The log's own columns carry a prefix in these files (`log_column`), because their names are the user's and
could equal one of the others.

Shape legend: N rows of a file, V values of a log column.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.io import storage

__all__ = [
    "Numbering",
    "as_dictionaries",
    "codes_of",
    "dictionary",
    "log_column",
    "read_batch",
    "read_columns",
    "read_rows",
    "write_batches",
    "write_columns",
    "write_rows",
]


def log_column(name: str) -> str:
    """Return the name of a log's column in the files."""
    return f"log:{name}"


def write_rows(uri: str, rows: pa.Table) -> None:
    """Write the rows as one record batch."""
    write_batches(uri, rows.schema, rows.combine_chunks().to_batches())


def write_batches(uri: str, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> None:
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for batch in batches:
            writer.write_batch(batch)
    storage.write_bytes(uri, buffer.getvalue())


def read_rows(uri: str) -> pa.Table:
    with storage.open_input(uri) as stream:
        return pa.ipc.open_file(stream).read_all()


def read_columns(uri: str, *names: str) -> list[np.ndarray]:
    """Read the columns of a file without dictionaries."""
    with storage.open_input(uri) as stream:
        schema = pa.ipc.open_file(stream).schema
        options = pa.ipc.IpcReadOptions(
            included_fields=sorted(schema.get_field_index(name) for name in names)
        )
        table = pa.ipc.open_file(stream, options=options).read_all()
    return [table.column(name).to_numpy() for name in names]


def write_columns(uri: str, names: Sequence[str], batches: Iterable[Sequence[pa.Array | np.ndarray]]) -> None:
    """Write one record batch per sequence of columns, at least one."""
    made = [
        pa.record_batch(
            [column if isinstance(column, pa.Array) else pa.array(column) for column in columns], names=names
        )
        for columns in batches
    ]
    write_batches(uri, made[0].schema, made)


def read_batch(uri: str, index: int) -> pa.RecordBatch:
    with storage.open_input(uri) as stream:
        return pa.ipc.open_file(stream).get_batch(index)


def as_dictionaries(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Encode `columns` of strings, each in a dictionary of its own in the order of first appearance."""
    rows = rows.combine_chunks()
    for name in columns:
        rows = rows.set_column(
            rows.schema.get_field_index(name), name, rows.column(name).combine_chunks().dictionary_encode()
        )
    return rows


def dictionary(uri: str, column: str) -> pa.Array:
    """Return the [V] distinct values of one column of a parsed file."""
    with storage.open_input(uri) as stream:
        schema = pa.ipc.open_file(stream).schema
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(column)])
        table = pa.ipc.open_file(stream, options=options).read_all()
    return table.column(column).chunk(0).dictionary


class Numbering:
    """The values of a log column and their codes, counted in the order of the log, however it was cut.

    values: those with codes at the beginning. If it `grows`, others are added; else any other has code −1.
    """

    def __init__(self, values: pa.Array, *, grows: bool) -> None:
        self.values = values
        self._grows = grows

    def codes(self, dictionaries: Iterable[pa.Array]) -> Iterator[np.ndarray]:
        """Yield [V] int32 for each file's values in turn.

        It handles as many files at a time as bring as many values as are known already. A look-up costs as
        much as building the table to look in, so the cost grows with what the files bring and not with files
        × values.
        """
        waiting: list[pa.Array] = []
        for found in dictionaries:
            waiting.append(found)
            if sum(map(len, waiting)) >= len(self.values):
                yield from self._codes(waiting)
                waiting = []
        if waiting:
            yield from self._codes(waiting)

    def _codes(self, dictionaries: list[pa.Array]) -> list[np.ndarray]:
        together = pa.concat_arrays(dictionaries)
        found = pc.index_in(together, value_set=self.values)
        codes = found.fill_null(-1).to_numpy().astype(np.int32)
        if self._grows and found.null_count:
            new = together.filter(found.is_null()).dictionary_encode()
            codes[codes < 0] = len(self.values) + new.indices.to_numpy()
            self.values = pa.concat_arrays([self.values, new.dictionary])
        return np.split(codes, np.cumsum([len(one) for one in dictionaries])[:-1])


def codes_of(rows: pa.Table, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return [N] int32 per log column: each row's code, given the codes [V + 1] of its file's dictionaries
    and of null.
    """
    encoded = {name: rows.column(log_column(name)).chunk(0) for name in maps}
    return {
        name: codes[encoded[name].indices.fill_null(len(codes) - 1).to_numpy()]
        for name, codes in maps.items()
    }

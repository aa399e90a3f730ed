"""A table that the log's rows are joined to: its files as one, with one row a key."""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources.file_options import file_format, nulls_of
from clickprompt.data.sources.reading import DataFile, FilePart, file_parts, read_rows
from clickprompt.data.sources.schema import FieldSchema, JoinedTable
from clickprompt.data.transform.columns import BadValue
from clickprompt.data.transform.row_transform import KEY, FieldRule, field_texts, key_texts
from clickprompt.errors import DataError

__all__ = ["Places", "check_key", "read_joined_table"]


class Places:
    """Where the rows of files that are read one after the other stand."""

    def __init__(self) -> None:
        self._parts: list[tuple[FilePart, int]] = []
        self._ends: list[int] = []

    def add(self, part: FilePart, first: int, rows: int) -> None:
        """Add a piece of `rows` rows, the first of which is `first` of its part."""
        self._parts.append((part, first))
        self._ends.append(rows + (self._ends[-1] if self._ends else 0))

    def __call__(self, index: int) -> str:
        """Return the place of a row in words."""
        piece = int(np.searchsorted(self._ends, index, side="right"))
        part, first = self._parts[piece]
        return part.place(first + index - (self._ends[piece - 1] if piece else 0))


def read_joined_table(
    name: str,
    table: JoinedTable,
    files: Sequence[DataFile],
    fields: Sequence[tuple[FieldSchema, str]],
    rules: Mapping[str, FieldRule],
) -> pa.Table:
    """Read `key` and a column of texts for each of `fields` (with its column in the files).

    Raises DataError for a row without a key, and for a key that comes twice.
    """
    columns = list(dict.fromkeys([table.key, *(column for _, column in fields)]))
    pieces: list[pa.Table] = []
    places = Places()
    for file in files:
        for part in file_parts(file, file_format(table)):
            rows = 0
            for piece in read_rows(part, columns, file_format(table)):
                pieces.append(_texts(piece, table, fields, rules, part, rows))
                places.add(part, rows, len(piece))
                rows += len(piece)
    if not pieces:
        raise DataError(
            f"{table.data}: the table {name} has no rows; give its files, or leave it out of tables"
        )
    whole = pa.concat_tables(pieces).combine_chunks()
    key = whole.column(KEY).combine_chunks()
    check_key(key, table.key, places)
    return pa.table({KEY: key, **{field.name: whole.column(field.name) for field, _ in fields}})


def _texts(
    piece: pa.Table,
    table: JoinedTable,
    fields: Sequence[tuple[FieldSchema, str]],
    rules: Mapping[str, FieldRule],
    part: FilePart,
    first_row: int,
) -> pa.Table:
    """Return the key and the fields of a piece, whose first row is `first_row` of its part."""
    nulls = nulls_of(part)
    made = {}
    for column_name, field in ((table.key, None), *((column, field) for field, column in fields)):
        column = piece.column(column_name).combine_chunks()
        try:
            if field is None:
                made[KEY] = key_texts(column, nulls)
            else:
                made[field.name] = field_texts(rules[field.name], column, nulls)
        except BadValue as error:
            error.column = column_name
            raise DataError(f"{part.place(first_row + error.index)}: {error}") from error
    return pa.table(made)


def check_key(key: pa.Array, name: str, place: Callable[[int], str]) -> None:
    """Raise DataError for a row without a key, and for a key that comes twice."""
    if key.null_count:
        raise DataError(
            f"{place(pc.index(key.is_null(), True).as_py())}: has no {name}; "
            "every row of a table needs its key"
        )
    encoded = key.dictionary_encode()
    if len(encoded.dictionary) < len(key):
        codes = encoded.indices.to_numpy()
        _, first = np.unique(codes, return_index=True)
        again = int(np.setdiff1d(np.arange(len(codes)), first)[0])
        before = int(first[codes[again]])
        raise DataError(
            f"{place(again)}: {name}={key[again].as_py()!r} is there a second time, after {place(before)}; "
            "a table has one row a key"
        )

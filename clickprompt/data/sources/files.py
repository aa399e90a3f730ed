"""Rows of Parquet, CSV and JSON-lines files, the text formats also gzipped, as text: some 100,000 rows at a time, however long the file.

A text file is read from its beginning by one reader; a Parquet file is cut at its row groups.
"""

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from clickprompt import storage
from clickprompt.data.sources.raw import RawPart
from clickprompt.errors import DataError, InputError

__all__ = ["FORMATS", "column_names", "file_parts", "format_of", "in_pieces", "read_objects", "read_texts"]

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json": "jsonl",
    ".json.gz": "jsonl",
}
"""what a name ends with → format"""

Row = TypeVar("Row")

_ROWS = 1 << 17
_PART_BYTES = 64 << 20  # of a Parquet file, uncompressed


@dataclass(frozen=True)
class RowGroups(RawPart):
    """Row groups [start, stop) of a Parquet file."""

    def place(self, row: int) -> str:
        return f"{self.uri}, row {self.first_row + row + 1}"


def format_of(uri: str) -> str:
    """Raises DataError for a name that says no format."""
    for ending, kind in FORMATS.items():
        if uri.endswith(ending):
            return kind
    raise DataError(f"{uri}: its name says no format that is read; known endings: {', '.join(FORMATS)}")


def file_parts(uri: str) -> list[RawPart]:
    """The file in pieces that can be read independently. Raises DataError for a damaged Parquet file."""
    kind = format_of(uri)
    if kind != "parquet":
        return [RawPart(uri, 0, -1, 0, int(kind == "csv"))]
    with _parquet(uri) as file:
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    parts: list[RawPart] = []
    start = first_row = rows = size = 0
    for index, group in enumerate(groups):
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if size >= _PART_BYTES or index == len(groups) - 1:
            parts.append(RowGroups(uri, start, index + 1, first_row, 0))
            start, first_row, rows, size = index + 1, first_row + rows, 0, 0
    return parts


def column_names(uri: str) -> list[str] | None:
    """The columns a file says it has; None for JSON lines and a file without a line, which don't say."""
    kind = format_of(uri)
    if kind == "parquet":
        with _parquet(uri) as file:
            return file.schema_arrow.names
    if kind == "csv":
        with _csv(RawPart(uri, 0, -1, 0, 1), None) as reader:
            return None if reader is None else reader.schema.names
    return None


def read_texts(part: RawPart, columns: Sequence[str]) -> Iterator[pa.Table]:
    """`columns` of the part's rows as strings, or lists of strings; null where a value or its key is missing.

    Raises DataError naming file and line of what can't be read.
    """
    kind = format_of(part.uri)
    if kind == "parquet":
        with _parquet(part.uri) as file:
            yield from _read_row_groups(part, file, list(columns))
    elif kind == "csv":
        with _csv(part, columns) as reader:
            for batch in reader or ():
                yield pa.Table.from_batches([batch]).select(list(columns))
    else:
        gathered: list[dict[str, Any]] = []
        for row, found in read_objects(part):
            try:
                gathered.append({name: _text(found.get(name)) for name in columns})
            except TypeError as error:
                raise DataError(f"{part.place(row)}: {error}; give text, numbers, true or false, or lists of them") from error
            if len(gathered) == _ROWS:
                yield _table(part, gathered, columns)
                gathered = []
        if gathered:
            yield _table(part, gathered, columns)


def _read_row_groups(part: RawPart, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    groups, rows = list(range(part.start, part.stop)), 0
    batches = file.iter_batches(_ROWS, row_groups=groups, columns=columns, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError):
            for group in groups:  # which of them it is
                with _naming_parquet(f"{part.uri}, row group {group + 1} of {file.num_row_groups}"):
                    file.read_row_group(group, columns=columns, use_threads=False)
            raise
        if batch is None:
            return
        yield pa.table({name: _texts(part, rows, name, batch.column(name)) for name in columns})
        rows += len(batch)


def in_pieces(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """The rows in lists of as many as one table has."""
    while piece := list(itertools.islice(rows, _ROWS)):
        yield piece


def read_objects(part: RawPart) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, object) of each line of a JSON-lines file, empty lines left out. Raises DataError naming the line."""
    with _text_stream(part.uri) as stream:
        row = 0
        while True:
            with _naming_line(part, row):
                line = stream.readline()
                if not line:
                    return
                found = json.loads(line) if line.strip() else None
                if not isinstance(found, dict | None):
                    raise DataError(f"{part.place(row)}: {line[:80]!r} is no JSON object; expected one object a line")
            if found is not None:
                yield row, found
            row += 1


def _text(value: Any) -> str | list[str | None] | None:
    """A JSON value as text: numbers without a needless fraction, so that 5 and 5.0 are one value. Raises TypeError for an object."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return [text if isinstance(text := _text(item), str | None) else _nested(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else _nested(value)


def _nested(value: Any) -> str:
    raise TypeError(f"{str(value)[:80]!r} is nested")


def _table(part: RawPart, rows: list[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    made = {}
    for name in columns:
        values = [row[name] for row in rows]
        lists = any(isinstance(value, list) for value in values)
        if lists:  # a single value among lists is a list of one
            values = [[value] if isinstance(value, str) else value for value in values]
        made[name] = pa.array(values, pa.list_(pa.string()) if lists else pa.string())
    return pa.table(made)


def _texts(part: RawPart, first: int, name: str, column: pa.Array) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if pa.types.is_floating(kind):  # as `_text`
        column = column.cast(pa.float64())
    try:
        texts = column.cast(pa.list_(pa.string()) if lists else pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{part.uri}: column {name} of type {kind} can't be read as text; give text, numbers or lists of them") from error
    if not _is_utf8(texts):
        rows = (texts.slice(row, 1) for row in range(len(texts)))
        row = next(index for index, one in enumerate(rows) if not _is_utf8(one.flatten() if lists else one))
        raise DataError(f"{part.place(first + row)}: column {name} is not UTF-8 text; mend the row")
    return texts


def _is_utf8(texts: pa.Array) -> bool:
    """Parquet's reader takes any bytes for text."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


@contextmanager
def _parquet(uri: str) -> Iterator[pq.ParquetFile]:
    with _naming_parquet(uri), storage.open_input(uri) as stream:
        yield pq.ParquetFile(stream)


@contextmanager
def _naming_parquet(place: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise DataError(f"{place}: a damaged or truncated Parquet file ({' '.join(str(error).split())[:150]}); write it again") from error


@contextmanager
def _csv(part: RawPart, columns: Sequence[str] | None) -> Iterator[csv.CSVStreamingReader | None]:
    """None for a file without a line."""
    try:
        with _text_stream(part.uri) as stream:
            yield csv.open_csv(
                stream,
                read_options=csv.ReadOptions(block_size=16 << 20, use_threads=False),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(columns or (), pa.string()),
                    include_columns=list(columns or ()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())[:200]
        if "Empty CSV file" in reason:
            yield None
            return
        raise DataError(f"{part.uri}: not readable as CSV with a header line ({reason}); mend the file") from error
    except pa.ArrowKeyError as error:
        raise DataError(f"{part.uri}: {' '.join(str(error).split())[:200]}; name columns that the header has") from error


@contextmanager
def _text_stream(uri: str) -> Iterator[io.BufferedIOBase]:
    with storage.open_input(uri) as stream:
        if not uri.endswith(".gz"):
            yield io.BufferedReader(stream)  # pyright: ignore[reportArgumentType] - it reads like a raw stream, but has no lines
            return
        with gzip.GzipFile(fileobj=stream) as unzipped, _naming_gzip(uri, unzipped):
            yield unzipped


@contextmanager
def _naming_gzip(uri: str, unzipped: gzip.GzipFile) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = f"after {unzipped.tell():,} bytes of its text"
        raise DataError(f"{uri}: a damaged or truncated gzip file ({error}, {where}); get it again") from error


@contextmanager
def _naming_line(part: RawPart, row: int) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{part.place(row)}: not UTF-8 text ({error.reason} at byte {error.start} of the line); convert the file"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{part.place(row)}: not JSON ({error}); expected one object a line") from error

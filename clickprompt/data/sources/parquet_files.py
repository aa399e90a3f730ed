"""Read columns of Parquet files with their own types, cut at row groups; also files of Delta and Iceberg
tables, whose columns are found by name or id.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import itertools
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clickprompt.data.sources.formats import PIECE_ROWS, DataFile, FileFormat, FilePart
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.parquet import UNREADABLE

__all__ = ["RowGroups", "leaves", "parquet_columns", "parquet_parts", "plain_type", "read_parquet"]

_PART_BYTES = 64 << 20  # uncompressed
_PIECE_BYTES = 64 << 20
_FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True)
class RowGroups(FilePart):
    """Row groups [start, stop) of a Parquet file."""

    def place(self, row: int) -> str:
        return f"{self.uri}, row {self.first_row + row + 1}"


def parquet_columns(file: DataFile) -> dict[str, pa.DataType]:
    """Return column → type as `read_parquet` gives it; the children of structs are a.b, and those of a list's
    structs are lists. Raises DataError for
    a damaged file, or a name that comes twice.
    """
    if file.schema is not None:
        return {name: plain_type(field.type) for name, (_, field) in leaves(file.schema).items()}
    with _parquet(file.uri) as opened:
        return {name: plain_type(field.type) for name, (_, field) in _leaves_of(file.uri, opened).items()}


def parquet_parts(file: DataFile, how: FileFormat) -> list[FilePart]:
    """Cut the file at row groups into parts of about 64 MiB. Raises DataError for a damaged file."""
    with _parquet(file.uri) as opened:
        groups = [opened.metadata.row_group(index) for index in range(opened.metadata.num_row_groups)]
    parts: list[FilePart] = []
    start, first_row, rows, size = 0, 0, 0, 0
    for index, group in enumerate(groups):
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if size >= _PART_BYTES or index == len(groups) - 1:
            parts.append(
                RowGroups(file.uri, start, index + 1, first_row, 0, file.partitions, file.schema, how)
            )
            start, first_row, rows, size = index + 1, first_row + rows, 0, 0
    return parts


def read_parquet(part: FilePart, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read `columns` of the part's rows. A column of the part's schema that the file lacks gets its
    partition's value, or null.

    Raises DataError naming file and row of text that isn't UTF-8, and for a column that is nowhere.
    """
    partitions = dict(part.partitions)
    with _parquet(part.uri) as file:
        have = _leaves_of(part.uri, file)
        found, types = _places(part, have, columns)
        names = list(dict.fromkeys(_asked_for(file.schema_arrow, path) for path in found.values()))
        first = 0
        for batch in _batches(part, file, names):
            made = {}
            for name in columns:
                wanted = types.get(name)
                if name in found:
                    column = _leaf(batch, found[name])
                    made[name] = _plain(
                        part, first, name, column if wanted is None else _as(part, name, column, wanted)
                    )
                else:
                    made[name] = _constant(
                        part, name, partitions.get(name), wanted or pa.string(), len(batch)
                    )
            yield pa.table(made)
            first += len(batch)


def leaves(schema: pa.Schema) -> dict[str, tuple[tuple[str, ...], pa.Field]]:
    """Return each column, or a.b of a struct's child, → its path and field; a.b of a list of structs is the
    list of their children. A column whose own name has dots comes before such a child.
    """
    found: dict[str, tuple[tuple[str, ...], pa.Field]] = {}
    for field in schema:
        if _struct_of(field.type) is None:
            found[field.name] = ((field.name,), field)

    def descend(path: tuple[str, ...], kind: pa.DataType, in_list: bool) -> None:
        in_list = in_list or _is_list(kind)
        for child in _struct_of(kind) or ():
            below = (*path, child.name)
            if _struct_of(child.type) is not None and not (in_list and _is_list(child.type)):
                descend(below, child.type, in_list)
                continue
            field = pa.field(child.name, pa.list_(child.type), metadata=child.metadata) if in_list else child
            found.setdefault(".".join(below), (below, field))

    for field in schema:
        descend((field.name,), field.type, False)
    return found


def _struct_of(kind: pa.DataType) -> pa.StructType | None:
    """Return the type, or that of a list's elements, if it is a struct."""
    inner = kind.value_type if _is_list(kind) else kind
    return inner if pa.types.is_struct(inner) else None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column of `kind` is read as: one kind of text, one kind of list, nothing
    encoded.
    """
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if _is_text(kind):
        return pa.string()
    if _is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind


def _is_text(kind: pa.DataType) -> bool:
    """Return whether it is text, bytes included: older writers don't mark text as text."""
    types = pa.types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _leaves_of(uri: str, file: pq.ParquetFile) -> dict[str, tuple[tuple[str, ...], pa.Field]]:
    names = file.schema_arrow.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{uri}: has two columns {twice!r}; rename one")
    return leaves(file.schema_arrow)


def _asked_for(schema: pa.Schema, path: tuple[str, ...]) -> str:
    """Return the column to ask the file for: the path, or the list that it leads into."""
    kind = schema.field(path[0]).type
    for place, name in enumerate(path[1:], start=1):
        if _is_list(kind):
            return ".".join(path[:place])
        kind = kind.field(name).type
    return ".".join(path)


def _places(
    part: FilePart, have: dict[str, tuple[tuple[str, ...], pa.Field]], columns: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, pa.DataType]]:
    """Return column → path in the file, for those it has, and column → type that the part's schema
    asks for.
    """
    partitions = dict(part.partitions)
    if part.schema is None:
        found = {name: have[name][0] for name in columns if name in have}
        missing = next((name for name in columns if name not in found and name not in partitions), None)
        if missing is not None:
            raise DataError(
                f"{part.uri}: has no column {missing!r}; it has {', '.join([*have, *partitions])[:300]}"
            )
        return found, {}
    wanted = leaves(part.schema)
    missing = next((name for name in columns if name not in wanted), None)
    if missing is not None:
        raise DataError(f"{part.uri}: its table has no column {missing!r}; it has {', '.join(wanted)[:300]}")
    by_id = {_field_id(field): path for path, field in have.values() if _field_id(field) is not None}
    found = {}
    for name in columns:
        number = _field_id(wanted[name][1])
        path = by_id.get(number) if number is not None and by_id else have[name][0] if name in have else None
        if path is not None:
            found[name] = path
    return found, {name: wanted[name][1].type for name in columns}


def _field_id(field: pa.Field) -> bytes | None:
    return (field.metadata or {}).get(_FIELD_ID)


def _batches(part: FilePart, file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    groups = list(range(part.start, part.stop))
    if not names:  # a batch without columns would have no length
        rows = sum(file.metadata.row_group(group).num_rows for group in groups)
        for start in range(0, rows, PIECE_ROWS):
            yield pa.record_batch({"": pa.nulls(min(PIECE_ROWS, rows - start))})
        return
    # pyarrow can't join lists of dictionaries from different row groups
    wanted = {name for path in names for name in (path, path.split(".")[0])}
    nested = any(pa.types.is_nested(field.type) for field in file.schema_arrow if field.name in wanted)
    pieces = [[group] for group in groups] if nested else [groups]
    batches = itertools.chain.from_iterable(
        file.iter_batches(_piece_rows(file, groups), row_groups=piece, columns=names, use_threads=False)
        for piece in pieces
    )
    while True:
        try:
            batch = next(batches, None)
        except UNREADABLE:
            for group in groups:  # name the damaged row group
                with _naming_damage(f"{part.uri}, row group {group + 1} of {file.num_row_groups}"):
                    file.read_row_group(group, columns=names, use_threads=False)
            raise
        if batch is None:
            return
        yield batch


def _piece_rows(file: pq.ParquetFile, groups: list[int]) -> int:
    """Return the rows of a piece: fewer if rows are long, so that a piece stays below about 64 MiB."""
    found = [file.metadata.row_group(group) for group in groups]
    row_bytes = sum(group.total_byte_size for group in found) / max(sum(group.num_rows for group in found), 1)
    return max(min(PIECE_ROWS, int(_PIECE_BYTES / max(row_bytes, 1))), 1)


def _leaf(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    column = batch.column(path[0])
    for name in path[1:]:
        column = _child(column, name)
    return column


def _child(column: pa.Array, name: str) -> pa.Array:
    if not _is_list(column.type):
        return pc.struct_field(column, [name])
    offsets, elements = _elements(column)
    return pa.LargeListArray.from_arrays(offsets, _child(elements, name), mask=column.is_null())


def _plain(part: FilePart, first: int, name: str, column: pa.Array) -> pa.Array:
    """Return the column as `plain_type`, with its text checked to be UTF-8."""
    kind = plain_type(column.type)
    if isinstance(column.type, pa.UuidType):
        return pa.array(
            [None if value is None else str(uuid.UUID(bytes=value)) for value in column.storage.to_pylist()],
            pa.string(),
        )
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        column = _without_views(column)
    if column.type != kind:
        try:
            column = column.cast(kind)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise DataError(
                    f"{part.uri}: column {name} of type {column.type} can't be read ({str(error)[:150]})"
                ) from error
            _refuse_text(part, first, name, column, kind, error)
        except pa.ArrowNotImplementedError as error:
            raise DataError(
                f"{part.uri}: column {name} of type {column.type} can't be read; give text, numbers "
                "or lists of them"
            ) from error
    inner = kind.value_type if pa.types.is_list(kind) else kind
    if pa.types.is_string(inner) and not _is_utf8(column):
        _refuse_text(part, first, name, column, kind, None)
    return column


def _without_views(column: pa.Array) -> pa.Array:
    """Convert list views to lists; pyarrow's own cast makes arrays that are too short."""
    return pa.LargeListArray.from_arrays(*_elements(column), mask=column.is_null())


def _elements(column: pa.Array) -> tuple[pa.Int64Array, pa.Array]:
    """Return where each row's elements begin, and all of them."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64()), column.flatten()


def _is_utf8(texts: pa.Array) -> bool:
    """Return whether the texts are UTF-8; Parquet's reader takes any bytes for text."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _refuse_text(
    part: FilePart, first: int, name: str, column: pa.Array, kind: pa.DataType, cause: Exception | None
) -> NoReturn:
    """Raise DataError for the first row that isn't UTF-8, found by halving."""

    def fine(start: int, stop: int) -> bool:
        try:
            # concatenated, a slice of lists has its own elements only
            some = pa.concat_arrays([column.slice(start, stop - start)]).cast(kind)
            return all(_is_utf8(one) for one in (some, some.flatten() if pa.types.is_list(kind) else some))
        except pa.ArrowInvalid:
            return False

    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = (middle, stop) if fine(start, middle) else (start, middle)
    raise DataError(f"{part.place(first + start)}: column {name} is not UTF-8 text; mend the row") from cause


def _as(part: FilePart, name: str, column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Return an older file's column as its table has it now (int32 as int64, …)."""
    kind = plain_type(wanted)
    if plain_type(column.type) == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{part.uri}: column {name} is {column.type}, of its table {wanted}: "
            f"{' '.join(str(error).split())[:150]}"
        ) from error


def _constant(part: FilePart, name: str, value: str | None, wanted: pa.DataType, rows: int) -> pa.Array:
    kind = plain_type(wanted)
    try:
        one = pa.scalar(None, kind) if value is None else pa.scalar(value, pa.string()).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{part.uri}: partition {name}={value!r} is no {kind}; mend the table") from error
    return pa.repeat(one, rows)


@contextmanager
def _parquet(uri: str) -> Iterator[pq.ParquetFile]:
    with _naming_damage(uri), storage.open_input(uri) as stream:
        yield pq.ParquetFile(stream, page_checksum_verification=True)


@contextmanager
def _naming_damage(place: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"{place}: pyarrow can't read this kind of Parquet file ({str(error)[:150]}); write it "
            "another way"
        ) from error
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise DataError(
            f"{place}: a damaged or truncated Parquet file ({' '.join(str(error).split())[:150]}); "
            "write it again"
        ) from error

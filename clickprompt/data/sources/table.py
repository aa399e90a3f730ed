"""A log of your own, described by a YAML schema (data/schema.py): Parquet, CSV or JSON lines, one file or thousands."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import contextlib
import copy
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt import storage
from clickprompt.data.dataset import SPLITS
from clickprompt.data.schema import FieldSchema, data_files, load_schema
from clickprompt.data.sources.files import column_names, file_parts, read_texts
from clickprompt.data.sources.raw import LogRows, RawPart, Source
from clickprompt.errors import DataError

__all__ = ["Table"]

_NOT_CLICKED, _CLICKED = ("0", "false", "False"), ("1", "true", "True")


class Table(Source):
    """Every field is a column of the log; a missing value is the text `unknown`."""

    joined = False

    def __init__(self, schema_uri: str) -> None:
        super().__init__(storage.native(schema_uri))
        self._only: frozenset[str] | None = None
        self.schema = load_schema(schema_uri)
        self.name = f"table {storage.sha256_bytes(self.schema.model_dump_json().encode())[:12]}"  # another schema, another source
        self.fields = tuple(field.name for field in self.schema.fields)
        self.split = "time" if self.schema.timestamp else "column" if self.schema.split else "hash"
        self.k_core = self.schema.k_core
        by_column = {field.column: field.name for field in self.schema.fields}
        self.user, self.item = (by_column.get(column or "", column or "") for column in (self.schema.user, self.schema.item))

    def files(self) -> dict[str, int]:
        """`raw_files`, not looked into."""
        return {uri: size for uri, size in data_files(self.raw_dir, self.schema) if self._only is None or uri in self._only}

    def raw_files(self) -> dict[str, int]:
        files = self.files()
        wanted = self._columns()
        for uri in files:
            names = column_names(uri)
            if names is None:
                continue
            for name in wanted:
                if names.count(name) != 1:
                    has = "has two columns" if name in names else "has no column"
                    raise DataError(f"{uri}: {has} {name!r}, which the schema names; it has {', '.join(map(str, names))[:300]}")
        return files

    def only(self, files: Mapping[str, int]) -> "Table":
        """The same log with the rows of some of its files."""
        some = copy.copy(self)
        some._only = frozenset(files)
        return some

    def kind(self, field: str) -> str:
        return self._field(field).kind

    def min_count(self, field: str) -> int:
        return self._field(field).min_count

    def _field(self, name: str) -> FieldSchema:
        return next(field for field in self.schema.fields if field.name == name)

    def tables(self) -> dict[str, pa.Table]:
        return {}

    def parts(self) -> list[RawPart]:
        return [part for uri in self.files() for part in file_parts(uri)]

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        rows = 0
        for texts in read_texts(part, self._columns()):
            columns = {field.name: self._values(part, rows, field, texts.column(field.column)) for field in self.schema.fields}
            for role, name in ((self.schema.user, self.user), (self.schema.item, self.item)):
                if role and name not in columns and self.k_core > 1:
                    columns[name] = _filled(texts.column(role))
            label = self._labels(part, rows, texts.column(self.schema.label.column).combine_chunks())
            timestamp = self._timestamps(part, rows, texts)
            rows += len(texts)
            yield LogRows(label, timestamp, columns)

    def _labels(self, part: RawPart, first: int, value: pa.Array) -> pa.Array:
        rule = self.schema.label
        dropped = pc.or_kleene(pc.is_null(value), pc.is_in(value, value_set=pa.array(("", *rule.drop), pa.string())))
        kept = pc.if_else(dropped, pa.scalar(None, pa.string()), value)
        if rule.positive_from is not None:
            numbers = _numbers(kept)
            wrong, why = numbers.is_null(), f"is no number (label.positive_from={rule.positive_from:g})"
            label = pc.greater_equal(numbers, rule.positive_from)
        elif rule.positive is not None:
            label = pc.if_else(dropped, pa.scalar(None, pa.bool_()), pc.is_in(kept, value_set=pa.array(rule.positive, pa.string())))
            wrong, why = label.is_null(), ""
        else:
            found = pc.index_in(kept, value_set=pa.array([*_NOT_CLICKED, *_CLICKED]))
            label = pc.greater_equal(found, len(_NOT_CLICKED))
            wrong, why = found.is_null(), "is neither 0 nor 1; say with positive_from or positive which labels are clicks"
        _refuse(part, first, rule.column, value, pc.and_not(wrong, dropped), why)
        return label.cast(pa.int8())

    def _columns(self) -> list[str]:
        schema = self.schema
        named = [schema.label.column, schema.timestamp, schema.split, schema.user, schema.item]
        return list(dict.fromkeys([*(field.column for field in schema.fields), *(name for name in named if name)]))

    def _values(self, part: RawPart, first: int, field: FieldSchema, column: pa.ChunkedArray) -> pa.Array:
        values = column.combine_chunks()
        if pa.types.is_list(values.type) != (field.kind == "multi"):
            if field.kind != "multi":
                raise DataError(f"{part.place(first)}: column {field.column} holds lists; set kind: multi for the field {field.name}")
        elif field.kind == "multi":
            texts = values.to_pylist()
            present = [[item for item in items or [] if item] for items in texts]
            values = pa.array(
                [(items[0] if field.take == "first" else ", ".join(items)) if items else None for items in present], pa.string()
            )
        if field.kind == "numeric":
            values = self._buckets(part, first, field, values)
        return _filled(values)

    def _buckets(self, part: RawPart, first: int, field: FieldSchema, values: pa.Array) -> pa.Array:
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
        numbers = _numbers(values)
        wrong = pc.and_(values.is_valid(), numbers.is_null())
        _refuse(part, first, field.column, values, wrong, "is no number; make it one, or set kind: categorical")
        if field.round is not None:
            digits = max(field.round, 0)
            rounded = pc.round(numbers, ndigits=field.round)
            return pa.array([None if value is None else f"{value:.{digits}f}" for value in rounded.to_pylist()], pa.string())
        edges = [f"{edge:g}" for edge in field.edges or ()]
        names = [f"below {edges[0]}", *(f"{low} to {high}" for low, high in pairwise(edges)), f"{edges[-1]} or more"]
        places = np.searchsorted(np.array(field.edges), np.nan_to_num(numbers.to_numpy(zero_copy_only=False)), side="right")
        found = pa.array(names).take(pa.array(places))
        return pc.if_else(numbers.is_valid(), found, pa.scalar(None, pa.string()))

    def _timestamps(self, part: RawPart, first: int, texts: pa.Table) -> pa.Array:
        """Whole numbers as they are, dates as microseconds; of a split column the split's number, 0 without either."""
        name = self.schema.timestamp or self.schema.split
        if name is None:
            return pa.array(np.zeros(len(texts), dtype=np.int64))
        values = texts.column(name).combine_chunks()
        if self.schema.split:
            found = pc.index_in(values, value_set=pa.array(list(SPLITS)))
            _refuse(part, first, name, values, found.is_null(), f"is none of {', '.join(SPLITS)}; mend the row or leave it out")
            return found.cast(pa.int64())
        for kind in (pa.int64(), pa.timestamp("us")):
            with contextlib.suppress(pa.ArrowInvalid):
                found = values.cast(kind)
                break
        else:
            found = pa.array([_instant(value) for value in values.to_pylist()], pa.int64())
        why = "is neither a whole number nor a date such as 2024-05-01 or 2024-05-01 12:30:00; mend the row or leave it out"
        _refuse(part, first, name, values, found.is_null(), why)
        return found.cast(pa.int64())


def _refuse(part: RawPart, first: int, column: str, values: pa.Array, wrong: pa.Array, why: str) -> None:
    """Raises DataError for the first row that is `wrong`."""
    flags = wrong.to_numpy(zero_copy_only=False)
    if flags.any():
        index = int(np.argmax(flags))
        shown = values[index].as_py()
        raise DataError(f"{part.place(first + index)}: {column}={shown if shown is None else repr(shown[:80])} {why}")


def _instant(value: str | None) -> int | None:
    for kind in (pa.int64(), pa.timestamp("us")):
        with contextlib.suppress(pa.ArrowInvalid):
            return pa.array([value]).cast(kind).cast(pa.int64())[0].as_py()
    return None


def _numbers(values: pa.Array) -> pa.Array:
    """float64, null where a text is no number."""
    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        return pa.array([_number(value) for value in values.to_pylist()], pa.float64())


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _filled(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Without nulls and surrounding blanks."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    values = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.or_kleene(values.is_null(), pc.equal(values, "")), "unknown", values)

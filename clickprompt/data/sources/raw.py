"""The interface of a source, and the reading of raw text files in pieces."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clickprompt.data.prepared.dataset import slug
from clickprompt.data.sources.history_schema import HistoryColumn
from clickprompt.data.sources.schema import FieldSchema
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage

__all__ = [
    "Example",
    "Findings",
    "LogRows",
    "RawPart",
    "Source",
    "cut_at_line_ends",
    "existing_files",
    "log_column_of",
    "read_lines",
    "read_part_bytes",
    "table_key",
]

# small enough for several parts of a small log, so that it is read in parallel
PART_BYTES = 4 << 20


@dataclass(frozen=True)
class RawPart:
    """Whole lines of a file: bytes [start, stop). `first_row` counts the lines before it, without
    the header.
    """

    uri: str
    start: int
    stop: int
    first_row: int
    header_lines: int

    def line_number(self, row: int) -> int:
        """Return the line of the file, counting from 1, that holds the part's row `row`, counting from 0."""
        return self.first_row + row + self.header_lines + 1

    def place(self, row: int) -> str:
        """Return the place of the part's row in words."""
        return f"{self.uri}, line {self.line_number(row)}"


@dataclass(frozen=True)
class Example:
    """Row `row` of the part, counting from 0, and what it holds. Its place is found only when it is asked
    for, because that may read the file again.
    """

    part: RawPart
    row: int
    value: str

    def __str__(self) -> str:
        return f"{self.part.place(self.row)}: {self.value}"


@dataclass
class Findings:
    """Remarks for the user from reading a log; the findings of its parts are merged."""

    counts: dict[str, int] = field(default_factory=dict)  # problem → number of rows
    occurred: set[str] = field(default_factory=set)  # values of the label rule that occurred
    # Form of the timestamps (data/transform/instants.py) → its first row
    times: dict[str, Example] = field(default_factory=dict)

    def merge(self, other: "Findings") -> None:
        for what, rows in other.counts.items():
            self.counts[what] = self.counts.get(what, 0) + rows
        self.occurred |= other.occurred
        for form, example in other.times.items():
            self.times.setdefault(form, example)


@dataclass(frozen=True)
class LogRows:
    """N rows of a log, in order.

    label [N] int8, null if the label rule drops the row; timestamp [N] int64, microseconds since 1970 UTC;
    values: log column → [N] strings, null or `unknown` if a value is missing; group [N] int64: which rows are
    ranked against each other, if the log says so; history [N] lists of strings, newest first, if it has them;
    importance [N] float32: how much a row counts, if the log says so; numbers: column (config/numbers.py) →
    [N] float64, null if missing, of fields whose numbers are learned; labels: column (config/tasks.py) → [N]
    int8 of further labels, −1 where a row's isn't known.
    """

    label: pa.Array
    timestamp: pa.Array
    values: dict[str, pa.Array]
    group: pa.Array | None = None
    history: pa.Array | None = None
    findings: Findings = field(default_factory=Findings)
    importance: pa.Array | None = None
    numbers: dict[str, pa.Array] = field(default_factory=dict)
    labels: dict[str, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)


class Source(ABC):
    """A raw log: interactions, cut into parts, and tables with fields' values, joined by a key column of the
    log.

    A field that no table has is a column of the log. An instance is sent to Ray tasks, so it holds nothing
    but names.
    """

    name: str
    fields: tuple[str, ...]  # in the order of the text (Eq. 4)
    # default split; "hash": the log has no timestamps; "column": its timestamps are numbers of splits
    split: str = "time"
    template: str = "sentence"  # default way from a row to its text (data/text/template.py)
    may_be_multi: tuple[str, ...] = ()  # fields that have several values in the raw files
    multi: tuple[str, ...] = ()  # those of them whose values all count (`take: each`)
    history: int | None = None  # default number of a user's earlier rows that each row knows
    history_column: HistoryColumn | None = None  # the log's own, instead
    # which of them: clicks, or all; "column": those of the log's own column, if any are asked for
    history_of: str = "clicks"
    history_with: tuple[str, ...] = ()  # what else of each of them
    keep_negatives: float | None = None  # default share of the training rows without a click
    user: str  # log columns, for k_core, latest_only and samples of the users
    item: str
    item_field: str | None = None  # field that says which item a row is about
    k_core: int = 0  # rows that every user and item has at least
    latest_only: bool = False  # keep the latest of the rows with the same user and item
    # "all": a row without its keys in the tables is an error; "inner": it is dropped; "left": it has no
    # values
    joins: str = "all"
    remark: str = ""  # what a user of the prepared dataset should know
    tables_may_change: bool = False  # a later batch of rows is joined to the tables as they are then
    grouped: bool = False  # whether its rows say which of them were shown together
    weighted: bool = False  # whether its rows say how much they count
    labels: tuple[str, ...] = ()  # names of further labels, beside the click
    # whether the vocabulary has every value of the tables, or only those of rows that the log refers to
    whole_tables: bool = True

    def __init__(self, raw_dir: str) -> None:
        self.raw_dir = raw_dir

    def kind(self, field: str) -> str:
        """Return categorical, numeric (in buckets) or multi (several values)."""
        return "categorical"

    def min_count(self, field: str) -> int:
        """Return how many training rows a value of the field needs; rarer values are unknown. 1: values
        without any training row are kept, too.
        """
        return 1

    def needs_all_rows(self) -> str:
        """Return what can't be done batch by batch, so that rows can't be appended to the prepared dataset;
        empty if nothing.
        """
        if not self.tables_may_change:
            return "tables beside its log"
        return f"k_core={self.k_core}" if self.k_core > 1 else "latest_only" if self.latest_only else ""

    @abstractmethod
    def raw_files(self) -> dict[str, int]:
        """Return name → bytes of every raw file. Raises DataError naming a missing one and where to
        get it.
        """

    def table_files(self) -> dict[str, int]:
        """Return those of `raw_files` that rows are joined to and that may change from one batch of rows to
        the next.
        """
        return {}

    @abstractmethod
    def tables(self) -> dict[str, pa.Table]:
        """Return key column of the log → table with a unique string column `key` and one string column per
        field, null or `unknown` if a value is missing.
        """

    @abstractmethod
    def parts(self) -> list[RawPart]:
        """Return the interaction file in pieces that can be read independently."""

    @abstractmethod
    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        """Yield the part's rows in order; `values` has every key and every field that no table has. Raises
        DataError with file and line.
        """

    def rules(self) -> list[FieldRule]:
        """Return how raw values become the fields' texts: by default unchanged, from columns named like the
        fields.
        """
        several = FieldSchema(name="-", column="-", kind="multi", separator="|", take="each")
        return [
            FieldRule(
                several.model_copy(update={"name": name, "column": slug(name)})
                if name in self.multi
                else FieldSchema(name=name, column=slug(name))
            )
            for name in self.fields
        ]

    @property
    def learned(self) -> list[int]:
        """Return the numbers of the fields whose numbers are learned."""
        return [number for number, rule in enumerate(self.rules()) if rule.schema.learned]

    def with_multi(self, names: Sequence[str]) -> "Source":
        """Return the log with all values of these fields. Raises InputError for one that has no more."""
        for name in names:
            if name not in self.may_be_multi:
                known = ", ".join(self.may_be_multi) or "none"
                raise InputError(
                    f"multi={name}: not a field of {self.name} that has several values (those are: {known}); "
                    "a log of your own says it in its schema, by take: each"
                )
        some = copy.copy(self)
        some.multi = tuple(names)
        return some

    def with_history(self, length: int) -> "Source":
        """Return the log with its own histories of this length, if it has a column of them (`history_of`)."""
        return self

    @classmethod
    def item_fields(cls) -> tuple[str, ...]:
        """Return the fields that describe the item. Known logs have the user's first, then the item's."""
        return cls.fields[cls.fields.index(cls.item_field) :] if cls.item_field else ()

    def roles(self) -> dict[str, str | None]:
        """Return the fields that identify a row's user and item, by their role."""
        return {"user": "User ID", "item": self.item_field}

    def reading(self) -> dict[str, Any]:
        """Return how the files are read, for the transform: "explode" and "options"
        (data/sources/schema.py).
        """
        return {"explode": None, "options": {}}

    def warnings(self, findings: Findings) -> list[str]:
        """Return what a user should know of what was read."""
        return []

    def check_findings(self, findings: Findings) -> None:  # noqa: B027 - most logs have nothing to check
        """Raises DataError if the parts, each fine alone, can't go together."""


def table_key(table: str) -> str:
    """Return the internal name of the log column with the keys of a table; no field can have that name."""
    return f"key\t{table}"


def log_column_of(field: str, tables: Mapping[str, pa.Table]) -> str:
    """Return the log column that decides a field's value: its own, or the key of the table that has it."""
    return next((key for key, table in tables.items() if field in table.column_names), field)


def existing_files(folder: str, names: Sequence[str], where: str) -> dict[str, tuple[str, int]]:
    """Return name → (URI, bytes) of each file, plain or with .gz behind its name. Raises DataError naming a
    missing one.
    """
    found = {}
    for name in names:
        for uri in (storage.join(folder, name), storage.join(folder, f"{name}.gz")):
            size = storage.file_size(uri)
            if size is not None:
                found[name] = (uri, size)
                break
        else:
            raise DataError(f"{storage.join(folder, name)}: this raw file is missing; {where}")
    return found


def cut_at_line_ends(uri: str, header_lines: int, part_bytes: int = PART_BYTES) -> list[RawPart]:
    """Cut a file into parts of about `part_bytes`. Reads it once, in constant memory, because row ids need
    the lines counted.
    """
    parts = []
    with storage.open_input(uri) as stream:
        start, row = _header_length(stream.read(1 << 16), header_lines), 0
        while True:
            stream.seek(start)
            chunk = stream.read(part_bytes)
            if not chunk:
                break
            length = len(chunk) if len(chunk) < part_bytes else chunk.rfind(b"\n") + 1
            if not length:
                raise DataError(
                    f"{uri}, line {row + header_lines + 1}: longer than {part_bytes:,} bytes; not the "
                    "expected text file"
                )
            parts.append(RawPart(uri, start, start + length, row, header_lines))
            row += chunk.count(b"\n", 0, length)
            start += length
    if not parts:
        raise DataError(f"{uri}: the file has no rows; get it again")
    return parts


def _header_length(beginning: bytes, header_lines: int) -> int:
    position = 0
    for _ in range(header_lines):
        end = beginning.find(b"\n", position)
        position = len(beginning) if end < 0 else end + 1
    return position


def read_part_bytes(part: RawPart) -> bytes:
    with storage.open_input(part.uri) as stream:
        stream.seek(part.start)
        return stream.read(part.stop - part.start)


def read_lines(
    uri: str, encoding: str, separator: str, columns: int, expected: str, header_lines: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of a small file's lines. Raises DataError with the line's number if there
    are not `columns` values.
    """
    try:
        text = storage.read_bytes(uri).decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{uri}: not {encoding} text ({error.reason} at byte {error.start}); get the file again"
        ) from error
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        if number <= header_lines:
            continue
        values = line.rstrip("\r").split(separator)
        if len(values) != columns:
            raise DataError(
                f"{uri}, line {number}: {line[:80]!r} has {len(values)} values; expected {expected}"
            )
        yield number, values

"""Read CSV files of any dialect as text columns: delimiter found or given, with or without a header line,
quotes, markers of missing values.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import contextlib
import csv as python_csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from clickprompt.data.sources.formats import PIECE_ROWS, FileFormat, FilePart
from clickprompt.data.sources.text_streams import LONGEST_LINE, open_text, refuse_undecodable, too_long
from clickprompt.data.transform.columns import has_outer_blanks
from clickprompt.errors import DataError

__all__ = ["CsvRows", "csv_columns", "read_csv"]

_DELIMITERS = (",", ";", "\t", "|")
# bytes; pyarrow reads up to 32 blocks ahead, whether or not the rows are used
_BLOCK = 2 << 20


@dataclass(frozen=True)
class CsvRows(FilePart):
    """All rows of a CSV file."""

    def line_number(self, row: int) -> int:
        """Return the line of a row. Rows may have line ends in quotes, and empty lines between them, so the
        file is read again up to the row.
        """
        with _wide_cells():
            for index, (line, _) in enumerate(_records(self.uri, self.how, strict=False)):
                if index == row:
                    return line
        return row + (2 if self.how.names is None else 1)


@dataclass(frozen=True)
class _Head:
    """What the first line says. `stand_in` is the one character that replaces a longer delimiter while
    pyarrow reads.
    """

    names: list[str]
    delimiter: str
    first: bytes  # bytes of the rows that were read with it
    lines: int  # number of lines before them
    stand_in: str = ""


def csv_columns(uri: str, how: FileFormat) -> dict[str, pa.DataType] | None:
    """Return column → string, or None for a file without a line. Raises DataError for a header that can't be
    understood.
    """
    with open_text(uri, how) as stream:
        head = _head(uri, how, stream)
    return None if head is None else {name: pa.string() for name in head.names if name}


def read_csv(part: FilePart, columns: Sequence[str], how: FileFormat) -> Iterator[pa.Table]:
    """Read `columns` as strings, null where a cell is a marker of `how.nulls`.

    Raises DataError naming the line of a row with too few or too many cells, or with bytes that aren't text
    of the encoding.
    """
    with open_text(part.uri, how) as stream:
        head = _head(part.uri, how, stream)
        if head is None:
            return
        partitions = dict(part.partitions)
        missing = next((name for name in columns if name not in head.names and name not in partitions), None)
        if missing is not None:
            raise DataError(
                f"{part.uri}: has no column {missing!r}; it has "
                f"{', '.join(filter(None, [*head.names, *partitions]))[:300]}"
            )
        body = _Body(part.uri, how, head, stream)
        try:
            for batch in _batches(part, how, head, body, [name for name in columns if name in head.names]):
                made = {name: _cells(batch.column(name), how, head) for name in columns if name in head.names}
                fixed = {
                    name: pa.repeat(pa.scalar(value, pa.string()), len(batch))
                    for name, value in partitions.items()
                }
                table = pa.table({name: made[name] if name in made else fixed[name] for name in columns})
                for start in range(0, len(table), PIECE_ROWS):
                    yield table.slice(start, PIECE_ROWS)
        except pa.ArrowInvalid as error:
            _refuse(part, how, head, error)


def _batches(
    part: FilePart, how: FileFormat, head: _Head, body: "_Body", columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the batches without the row that `body` appends. That row is missing if a quote before it was
    never closed, which pyarrow doesn't report.
    """
    # A column without a name can't be requested
    names = [name or f"\0{index}" for index, name in enumerate(head.names)]
    wanted = columns or names[:1]
    reader = csv.open_csv(
        body,
        read_options=csv.ReadOptions(block_size=LONGEST_LINE, use_threads=False, column_names=names),
        parse_options=csv.ParseOptions(
            delimiter=head.stand_in or head.delimiter,
            quote_char=how.quote or False,
            newlines_in_values=bool(how.quote),
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
            null_values=list(how.nulls),
            strings_can_be_null=True,
        ),
    )
    last = None
    for batch in reader:
        if len(batch):
            if last is not None:
                yield last
            last = batch
    if last is None or last.column(0)[-1].as_py() != body.end_mark:
        _refuse_open_quote(part, how)
    yield last.slice(0, len(last) - 1)


def _cells(column: pa.Array, how: FileFormat, head: _Head) -> pa.Array:
    if head.stand_in and how.quote and pc.any(pc.match_substring(column, head.stand_in)).as_py():
        column = pc.replace_substring(column, head.stand_in, head.delimiter)  # a delimiter in quotes
    if how.nulls and has_outer_blanks(column):
        markers = pa.array(sorted({marker.strip() for marker in how.nulls}), pa.string())
        column = pc.if_else(
            pc.is_in(pc.utf8_trim_whitespace(column), value_set=markers), pa.scalar(None, pa.string()), column
        )
    return column


def _head(uri: str, how: FileFormat, stream: io.BufferedReader) -> _Head | None:
    """Read the first line that isn't empty, which may span several where quotes hold line ends. Return None
    for a file without one.
    """
    lines = 0
    while True:
        first = _first_line(uri, how, stream, lines)
        if not first:
            return None
        if first.strip(b"\r\n"):
            break
        lines += first.count(b"\n")
    try:
        text = first.decode()
    except UnicodeDecodeError as error:
        refuse_undecodable(uri, how, error)
    place = f"{uri}, line {lines + 1}"
    if "\r" in text.rstrip("\r\n") and not how.quote:
        raise DataError(f"{place}: its lines end in carriage returns only; convert the file to line feeds")
    delimiter = how.delimiter if how.delimiter is not None else _found_delimiter(place, how, text)
    stand_in = "" if len(delimiter.encode()) == 1 else "\x1e" if "\x1f" in delimiter else "\x1f"
    try:
        cells = next(_reader([text], how, delimiter, stand_in))
    except python_csv.Error as error:
        raise DataError(
            f"{place}: not readable as CSV ({error}); mend the line, or set quote: and delimiter:"
        ) from error
    if how.names is not None:
        if len(cells) != len(how.names):
            raise DataError(
                f"{place}: {_counted(len(cells))} and {len(how.names)} names; give a name for every "
                "cell, or set delimiter:"
            )
        return _Head(list(how.names), delimiter, first, lines, stand_in)
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{place}: two columns are named {twice!r}; rename one, or give names: for a file without "
            "a header line"
        )
    return _Head(names, delimiter, b"", lines + first.count(b"\n"), stand_in)


def _first_line(uri: str, how: FileFormat, stream: io.BufferedReader, lines: int) -> bytes:
    found = b""
    while True:
        line = stream.readline(LONGEST_LINE)
        found += line
        if len(found) >= LONGEST_LINE:
            raise too_long(f"{uri}, line {lines + 1}")
        if not line or not how.quote or found.count(how.quote.encode()) % 2 == 0:
            return found


def _found_delimiter(place: str, how: FileFormat, line: str) -> str:
    quote = re.escape(how.quote or "")
    bare = re.sub(f"{quote}(?:[^{quote}]|{quote}{quote})*{quote}", "", line) if quote else line
    counts = {delimiter: bare.count(delimiter) for delimiter in _DELIMITERS}
    if how.names is not None:
        fitting = [delimiter for delimiter, count in counts.items() if count == len(how.names) - 1]
        if len(fitting) == 1 or (fitting and len(how.names) == 1):
            return fitting[0]
    most = max(counts.values())
    found = [delimiter for delimiter, count in counts.items() if count == most]
    if most and len(found) > 1:
        raise DataError(
            f"{place}: {' and '.join(map(repr, found))} occur equally often, so either may be the "
            "delimiter; set delimiter:"
        )
    return found[0]


def _reader(lines: Iterable[str], how: FileFormat, delimiter: str, stand_in: str, strict: bool = True) -> Any:
    """Return Python's reader of the dialect, for headers and for finding lines."""
    texts = (line.replace(delimiter, stand_in) for line in lines) if stand_in else lines
    quoting = python_csv.QUOTE_MINIMAL if how.quote else python_csv.QUOTE_NONE
    return python_csv.reader(
        texts, delimiter=stand_in or delimiter, quotechar=how.quote or None, quoting=quoting, strict=strict
    )


class _Body(io.RawIOBase):
    """The bytes after the header, for pyarrow: a delimiter of several bytes becomes one, and a row of
    `end_mark` is added.

    Blocks are short, but hold at least a line.
    """

    def __init__(self, uri: str, how: FileFormat, head: _Head, stream: io.BufferedReader) -> None:
        self.end_mark = 8 * next(mark for mark in "\x02\x03\x04" if mark not in (head.delimiter, how.quote))
        self._uri, self._stream, self._lines = uri, stream, head.lines
        self._delimiter, self._stand_in = head.delimiter.encode(), head.stand_in.encode()
        self._rest = head.first
        self._end = (
            f"\n{(head.stand_in or head.delimiter).join([self.end_mark] * len(head.names))}\n".encode()
        )

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._replaced(_BLOCK) if self._stand_in else self._taken(size)
        if not data:
            data, self._end = self._end, b""
        return data

    def _taken(self, size: int) -> bytes:
        if self._rest:
            first, self._rest = self._rest, b""
            return first
        more = self._stream.read(_BLOCK)
        data = more
        while more and b"\n" not in more and len(data) < size:
            more = self._stream.read(_BLOCK)
            data += more
        return data

    def _replaced(self, size: int) -> bytes:
        """Return whole lines, so that no delimiter is cut."""
        while True:
            more = self._stream.read(size)
            data = self._rest + more
            end = data.rfind(b"\n") + 1 if more else len(data)
            self._rest = data[end:]
            if end or not more:
                break
            if len(data) > LONGEST_LINE:
                raise too_long(f"{self._uri}, line {self._lines + 1}")
        data = data[:end]
        at = data.find(self._stand_in)
        if at >= 0:
            line = self._lines + data.count(b"\n", 0, at) + 1
            raise DataError(
                f"{self._uri}, line {line}: holds the control character {self._stand_in!r}; delete "
                "it, or use a shorter delimiter"
            )
        self._lines += data.count(b"\n")
        return data.replace(self._delimiter, self._stand_in)


def _refuse(part: FilePart, how: FileFormat, head: _Head, error: pa.ArrowInvalid) -> NoReturn:
    """Raise DataError for what pyarrow reports, with the line."""
    reason = " ".join(str(error).split())
    if "straddl" in reason:
        _refuse_long_row(part, how, error)
    if "UTF8" in reason:
        refuse_undecodable(part.uri, how, error)
    with _wide_cells():
        try:
            for line, cells in _records(part.uri, how):
                if len(cells) != len(head.names):
                    has = "names: gives" if how.names is not None else "the header has"
                    raise DataError(
                        f"{part.uri}, line {line}: {_counted(len(cells))} where {has} "
                        f"{len(head.names)}; mend the line, or set delimiter:"
                    ) from error
        except python_csv.Error:
            _refuse_open_quote(part, how)
    raise DataError(f"{part.uri}: not readable as CSV ({reason[:200]}); mend the file") from error


def _refuse_long_row(part: FilePart, how: FileFormat, error: pa.ArrowInvalid) -> NoReturn:
    """Raise DataError with the row, one of a long line or of several lines in quotes, if Python's reader gets
    to it.
    """
    with _wide_cells(), contextlib.suppress(python_csv.Error):
        for line, cells in _records(part.uri, how, strict=False):
            if sum(map(len, cells)) > _BLOCK // 4:  # characters have at most four bytes
                size = sum(len(cell.encode("utf-8", "surrogateescape")) for cell in cells)
                limit = _BLOCK if any("\n" in cell for cell in cells) else LONGEST_LINE
                if size > limit:
                    raise too_long(f"{part.uri}, line {line}", limit) from error
    raise too_long(f"{part.uri}: a row", _BLOCK) from error


def _refuse_open_quote(part: FilePart, how: FileFormat) -> NoReturn:
    """Raise DataError with the row where Python's strict reader stops."""
    line, reason = 0, "unexpected end of data"
    with _wide_cells():
        try:
            for start, _ in _records(part.uri, how):
                line = start
        except python_csv.Error as error:
            reason = str(error)
    after = f"the row after line {line}" if line else "the first row"
    raise DataError(
        f"{part.uri}: {after}: a quote {how.quote} that isn't closed ({reason}); mend it, or set quote:"
    )


def _records(uri: str, how: FileFormat, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, cells) of each row, by Python's reader. If `strict`, it raises its Error
    for quotes that pyarrow takes.
    """
    with open_text(uri, how) as stream:
        head = _head(uri, how, stream)
        if head is None:
            return
        text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        reader = _reader(
            itertools.chain([head.first.decode()] if head.first else [], text),
            how,
            head.delimiter,
            head.stand_in,
            strict,
        )
        line = head.lines
        for cells in reader:
            if cells:
                yield line + 1, cells
            line = head.lines + reader.line_num


@contextlib.contextmanager
def _wide_cells() -> Iterator[None]:
    """Lift the reader's limit on cells, 128 KiB by default."""
    before = python_csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        python_csv.field_size_limit(before)


def _counted(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"

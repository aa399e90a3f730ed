"""What a source is, and reading raw text files in pieces."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from clickprompt import storage
from clickprompt.errors import DataError

__all__ = ["RawPart", "Source", "cut_at_line_ends", "read_lines", "read_part_bytes"]

PART_BYTES = 4 << 20  # small enough for several parts of a small log, so that reading it is parallel


@dataclass(frozen=True)
class RawPart:
    """Whole lines of a file: bytes [start, stop). `first_row` counts the lines before it, without the header."""

    uri: str
    start: int
    stop: int
    first_row: int
    header_lines: int

    def line_number(self, row_id: int) -> int:
        """The line of the file, counting from 1, that holds row `row_id` of the log."""
        return row_id + self.header_lines + 1


class Source(ABC):
    """A raw log: one big interaction file, cut into parts, and small tables with the fields' values, joined by key.

    Sent to Ray tasks, so an instance holds nothing but names.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]  # in the order of the text (Eq. 4)

    def __init__(self, raw_dir: str) -> None:
        self.raw_dir = raw_dir

    @abstractmethod
    def raw_files(self) -> dict[str, int]:
        """Name → bytes of every raw file. Raises DataError naming a missing one and where to get it."""

    @abstractmethod
    def tables(self) -> dict[str, pa.Table]:
        """Key column of the log → table with a unique string column `key` and one string column per field; no nulls."""

    @abstractmethod
    def parts(self) -> list[RawPart]:
        """The interaction file in pieces that can be read independently."""

    @abstractmethod
    def read_part(self, part: RawPart) -> pa.Table:
        """row_id int64 (position in the log), rating int64, timestamp int64, string keys. Raises DataError with file and line."""

    @abstractmethod
    def label(self, rows: pa.Table) -> pa.Table:
        """The label rule: drop rows, replace `rating` by `label` int8."""


def cut_at_line_ends(uri: str, header_lines: int, part_bytes: int = PART_BYTES) -> list[RawPart]:
    """Cut a file into parts of about `part_bytes`. Reads it once, in constant memory, because row ids need the lines counted."""
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
                raise DataError(f"{uri}, line {row + header_lines + 1}: longer than {part_bytes:,} bytes; not the expected text file")
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


def read_lines(uri: str, encoding: str, separator: str, columns: int, expected: str, header_lines: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of a small file's lines. Raises DataError with the line's number where there are not `columns` values."""
    try:
        text = storage.read_bytes(uri).decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}: not {encoding} text ({error.reason} at byte {error.start}); get the file again") from error
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        if number <= header_lines:
            continue
        values = line.rstrip("\r").split(separator)
        if len(values) != columns:
            raise DataError(f"{uri}, line {number}: {line[:80]!r} has {len(values)} values; expected {expected}")
        yield number, values

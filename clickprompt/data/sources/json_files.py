"""Read JSON files, one object per line or an array of objects, as columns of text or lists of text. Numbers
are written so that equal ones compare equal.
"""

import codecs
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from clickprompt.data.sources.formats import PIECE_ROWS, FileFormat, FilePart
from clickprompt.data.sources.text_streams import LONGEST_LINE, open_text, refuse_undecodable, too_long
from clickprompt.data.transform.json_rows import value_at
from clickprompt.errors import DataError

__all__ = ["JsonRows", "json_columns", "open_objects", "read_json"]

_CHUNK = 1 << 20
_PIECE_CHARACTERS = 32 << 20
# objects; a key without a value may be left out, so one is not enough
_LOOKED_INTO = 1000
# from here on a float may be another whole number than the one that was written
_EXACT = 2.0**53
_BLANKS = " \t\r\n"

Objects = Iterator[tuple[int, dict[str, Any], int]]  # number from 1, object, characters


@dataclass(frozen=True)
class JsonRows(FilePart):
    """All objects of a JSON file."""

    def place(self, row: int) -> str:
        """Return the place of a row. Empty lines are lines but not rows, so the file is read again up to the
        row.
        """
        with open_objects(self.uri, self.how) as (unit, objects):
            for index, (number, _, _) in enumerate(objects):
                if index == row:
                    return f"{self.uri}, {unit} {number}"
        return f"{self.uri}, row {row + 1}"


def json_columns(uri: str, how: FileFormat) -> list[str]:
    """Return the keys of the file's first objects, and a.b for those of objects within objects, or within
    lists.
    """
    found: dict[str, None] = {}

    def add(value: dict[str, Any], prefix: str) -> None:
        for key, below in value.items():
            for one in below if isinstance(below, list) else [below]:
                if isinstance(one, dict):
                    add(one, f"{prefix}{key}.")
            found[f"{prefix}{key}"] = None

    with open_objects(uri, how) as (_, objects):
        for _, value, _ in itertools.islice(objects, _LOOKED_INTO):
            add(value, "")
    return list(found)


def read_json(part: FilePart, columns: Sequence[str], how: FileFormat) -> Iterator[pa.Table]:
    """Read `columns` as strings, or as lists of strings in a piece that has lists; null if a key is missing,
    or its value is null or NaN.

    A column a.b is the key of that name, or b of the object a, or the list of them if a is a list. If an
    object has a key twice, the last value counts. Raises DataError naming the line, or the object's number in
    an array, of what can't be read.
    """
    partitions = {name: value for name, value in part.partitions if name in columns}
    gathered: list[dict[str, Any]] = []
    numbers: list[int] = []
    with open_objects(part.uri, how) as (unit, objects):

        def place(index: int) -> str:
            return f"{part.uri}, {unit} {numbers[index]}"

        size = 0
        for number, found, characters in objects:
            numbers.append(number)
            gathered.append(found)
            size += characters
            if len(gathered) == PIECE_ROWS or size >= _PIECE_CHARACTERS:
                yield _table(place, gathered, columns, partitions)
                gathered.clear()
                numbers.clear()
                size = 0
        if gathered:
            yield _table(place, gathered, columns, partitions)


@contextmanager
def open_objects(uri: str, how: FileFormat) -> Iterator[tuple[str, Objects]]:
    """Yield (what is counted: line or item, (its number from 1, object, length) of each). Numbers with a
    point are canonical text, NaN is None.

    Raises DataError naming the place of what is not an object.
    """
    with open_text(uri, how) as stream:
        if how.format != "jsonl" and stream.peek().lstrip(_BLANKS.encode()).startswith(b"["):
            yield "item", _items(uri, how, stream)
        else:
            yield "line", _lines(uri, stream)


class _NumberError(ValueError):
    """A number that no column can hold."""


def _decimal(text: str) -> str:
    """Write a number without a needless fraction, so that 5 and 5.0 are one value."""
    value = float(text)
    if not value.is_integer():
        if math.isinf(value):
            raise _NumberError(f"{text[:80]} is too large a number")
        return repr(value)
    if abs(value) < _EXACT:
        return str(int(value))
    exact = Decimal(text)
    return str(int(exact)) if exact == int(exact) else str(exact)


def _constant(text: str) -> None:
    if text != "NaN":
        raise _NumberError(f"{text} is no value that can be learned from")


_decode = json.JSONDecoder(parse_float=_decimal, parse_constant=_constant).raw_decode


def _lines(uri: str, stream: io.BufferedReader) -> Objects:
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) >= LONGEST_LINE:
            raise too_long(f"{uri}, line {number}")
        line = line.strip()
        if not line:
            continue
        try:
            text = line.decode()
            found, end = _decode(text)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{uri}, line {number}: not UTF-8 text ({error.reason} at byte {error.start} of the "
                "line); convert it, or set encoding:"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{uri}, line {number}: not JSON ({error}); expected one object a line"
            ) from error
        if end != len(text):
            raise DataError(
                f"{uri}, line {number}: text follows the object ({text[end : end + 80]!r}); expected "
                "one object a line"
            )
        if type(found) is not dict:
            raise DataError(
                f"{uri}, line {number}: {text[:80]!r} is not a JSON object; expected one object a line"
            )
        yield number, found, len(text)


def _items(uri: str, how: FileFormat, stream: io.BufferedReader) -> Objects:
    """Yield the objects of an array one after the other; the file is never in memory as a whole."""
    text = _Characters(uri, how, stream)
    text.next()
    text.at += 1
    number = 0
    while True:
        number += 1
        place = f"{uri}, item {number}"
        if text.next() == "]" and number == 1:
            break
        found, length = text.value(place)
        if type(found) is not dict:
            raise DataError(
                f"{place}: {str(found)[:80]!r} is not a JSON object; expected an array of objects"
            )
        yield number, found, length
        mark = text.next()
        if mark == "]":
            break
        if mark != ",":
            what = f"is followed by {mark!r}" if mark else "is the last, and the array isn't closed"
            raise DataError(f"{place} {what}; expected an array of objects")
        text.at += 1
    text.at += 1
    if text.next():
        raise DataError(f"{uri}: text follows the array; expected one array of objects, or one object a line")


class _Characters:
    """The text of a stream from `at` on, read as it is needed."""

    def __init__(self, uri: str, how: FileFormat, stream: io.BufferedReader) -> None:
        self.text, self.at = "", 0
        self._uri, self._how, self._stream = uri, how, stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def more(self) -> bool:
        chunk = self._stream.read(_CHUNK)
        try:
            self.text = self.text[self.at :] + self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            refuse_undecodable(self._uri, self._how, error)
        self.at = 0
        return bool(chunk)

    def next(self) -> str:
        """Return the next character that is not blank, "" at the end, and move `at` there."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANKS:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self, place: str) -> tuple[Any, int]:
        """Return (the value that begins at `at`, its length) and move `at` behind it."""
        while True:
            try:
                found, end = _decode(self.text, self.at)
                length, self.at = end - self.at, end
                return found, length
            except (ValueError, RecursionError) as error:
                unfinished = (
                    isinstance(error, json.JSONDecodeError) and len(self.text) - self.at < LONGEST_LINE
                )
                if not (unfinished and self.more()):
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                    raise DataError(f"{place}: not JSON ({reason}); expected an array of objects") from error


def _table(
    place: Callable[[int], str],
    rows: list[dict[str, Any]],
    columns: Sequence[str],
    partitions: dict[str, str | None],
) -> pa.Table:
    made = {}
    for name in columns:
        if "." in name:
            path = name.split(".")
            values = [row[name] if name in row else value_at(row, path) for row in rows]
        else:
            values = [row.get(name) for row in rows]
        if name in partitions and not any(name in row for row in rows):
            made[name] = pa.repeat(pa.scalar(partitions[name], pa.string()), len(rows))
        else:
            made[name] = _column(place, name, values)
    return pa.table(made)


def _column(place: Callable[[int], str], name: str, values: list[Any]) -> pa.Array:
    """Make an array. The common cases, only text and only whole numbers, run at pyarrow's speed."""
    for kind in (pa.string(), pa.int64()):
        try:
            return pa.array(values, kind).cast(pa.string())
        except (pa.ArrowTypeError, pa.ArrowInvalid, OverflowError):
            continue
        except UnicodeEncodeError:
            break
    texts = []
    for index, value in enumerate(values):
        try:
            texts.append(_text(value))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{place(index)}: {name}: {error}; give text, numbers, true or false, or lists of them"
            ) from error
    if any(type(text) is list for text in texts):  # a single value among lists is a list of one
        return pa.array([[text] if type(text) is str else text for text in texts], pa.list_(pa.string()))
    return pa.array(texts, pa.string())


def _text(value: Any) -> str | list[str | None] | None:
    """Return a value as text. Raises TypeError for an object or a list in a list, ValueError for half a
    surrogate pair.
    """
    if type(value) is list:
        return [_single(item) for item in value]
    return _single(value)


def _single(value: Any) -> str | None:
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{value[:80]!r} holds half a surrogate pair, which is not text") from error
        return value
    if value is None:
        return None
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int:
        return str(value)
    raise TypeError(f"{str(value)[:80]!r} is nested")

"""Read the objects of a public dump of JSON lines one after another, plain or gzipped. (reading.py reads a
log of your own.)
"""

import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from clickprompt.data.sources.raw import RawPart
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["in_pieces", "read_objects"]

Row = TypeVar("Row")

_ROWS = 1 << 17
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def in_pieces(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists, each as long as one table."""
    while piece := list(itertools.islice(rows, _ROWS)):
        yield piece


def read_objects(part: RawPart) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, object) of each line of a JSON-lines file, skipping empty lines. Raises DataError naming
    the line.
    """
    with _text_stream(part.uri) as stream:
        row = 0
        while True:
            with _naming_line(part, row):
                line = stream.readline()
                if not line:
                    return
                found = json.loads(line) if line.strip() else None
                if _SURROGATE.search(line):
                    json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is not text
                if not isinstance(found, dict | None):
                    raise DataError(
                        f"{part.place(row)}: {line[:80]!r} is not a JSON object; expected one object a line"
                    )
            if found is not None:
                yield row, found
            row += 1


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
        raise DataError(
            f"{uri}: a damaged or truncated gzip file ({error}, {where}); get it again"
        ) from error


@contextmanager
def _naming_line(part: RawPart, row: int) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(
            f"{part.place(row)}: half of a surrogate pair, such as \\ud800, is no text; mend the line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{part.place(row)}: not UTF-8 text ({error.reason} at byte {error.start} of the line); "
            "convert the file"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{part.place(row)}: not JSON ({error}); expected one object a line") from error

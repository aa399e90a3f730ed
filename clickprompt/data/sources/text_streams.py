"""Read a text file's bytes as UTF-8, whatever its compression and encoding."""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pyarrow as pa

from clickprompt.data.sources.formats import FileFormat, compression_of
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage

__all__ = ["LONGEST_LINE", "open_text", "refuse_undecodable", "too_long"]

LONGEST_LINE = 16 << 20  # bytes

_BUFFER = 1 << 20
_CHUNK = 4 << 20
_UNPACK, _CONVERT = "unpack it", "write it as Parquet or CSV"
_OTHERS = (
    (rb"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (rb"\x1f\x8b", "packed by gzip", "give it a name that ends in .gz"),
    (rb"\x28\xb5\x2f\xfd", "packed by Zstandard", "give it a name that ends in .zst"),
    (rb"BZh[1-9]1AY&SY", "packed by bzip2", "give it a name that ends in .bz2"),
    (rb"\xfd7zXZ\0", "packed by xz", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb"PAR1[^\t\n\r -~]", "Parquet", "give it a name that ends in .parquet, or set format: parquet"),
    (rb"ARROW1\0\0|FEA1", "Arrow's or Feather's", _CONVERT),
    (rb"ORC[\x08\n][^ -~]", "ORC", _CONVERT),
    (rb"Obj\x01", "Avro", _CONVERT),
    (rb"\x89HDF\r\n", "HDF5", _CONVERT),
    (rb"SQLite format 3\0", "an SQLite database", _CONVERT),
    (rb"\x80[\x02-\x05][^\t\n\r]", "a pickle, which could run anything when it is read", _CONVERT),
    (rb"%PDF-", "a PDF", _CONVERT),
    (rb"(?s).{257}ustar", "a tar archive", _UNPACK),
)
"""what files begin with that are no text, what they are, and what to do"""
_START = 262  # bytes that tell all of them


@contextmanager
def open_text(uri: str, how: FileFormat) -> Iterator[io.BufferedReader]:
    """Open the text as UTF-8 without a byte order mark. Bytes that are not text of an encoding other than
    UTF-8 raise DataError with their line; so do well-known files that are no text.

    Raises DataError for a damaged compressed file, while it is read.
    """
    with _unpacked(uri) as stream:
        if not how.is_utf8:
            stream = pa.transcoding_input_stream(stream, how.encoding, "utf-8")
        text = io.BufferedReader(stream, _BUFFER)  # pyright: ignore[reportArgumentType] - it reads like a raw stream
        try:
            start = text.peek(_START)
            if start.startswith(codecs.BOM_UTF8):
                text.read(3)
            elif other := next((other for other in _OTHERS if re.match(other[0], start)), None):
                raise DataError(f"{uri}: not text but {other[1]}; {other[2]}")
            yield text
        except UnicodeError as error:  # UTF-16 without a byte order mark raises this plain error
            refuse_undecodable(uri, how, error)


@contextmanager
def _unpacked(uri: str) -> Iterator[pa.NativeFile]:
    codec = compression_of(uri)
    with storage.open_input(uri) as stream:
        if codec is None:
            yield stream  # pyright: ignore[reportReturnType]
            return
        try:
            with pa.CompressedInputStream(stream, codec) as unpacked:
                yield unpacked
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, InputError | pa.ArrowInvalid):
                raise
            reason = " ".join(str(error).split())[:150]
            raise DataError(f"{uri}: a damaged or truncated {codec} file ({reason}); get it again") from error


def refuse_undecodable(uri: str, how: FileFormat, cause: Exception) -> NoReturn:
    """Raise DataError with the first line that isn't text of the encoding."""
    decoder, lines = codecs.getincrementaldecoder(how.encoding)(), 0
    with _unpacked(uri) as stream:
        while True:
            chunk = stream.read(_CHUNK)
            try:
                lines += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                lines += error.object[: error.start].decode(how.encoding, "ignore").count("\n")
                wrong = error.object[error.start : error.end]
                raise DataError(
                    f"{uri}, line {lines + 1}: not {how.encoding} text ({error.reason}: {wrong!r}); "
                    "convert the file, or set encoding:"
                ) from cause
            except UnicodeError as error:
                raise DataError(
                    f"{uri}: not {how.encoding} text ({error}); convert the file, or set encoding:"
                ) from cause
            if not chunk:
                raise DataError(
                    f"{uri}: not {how.encoding} text; convert the file, or set encoding:"
                ) from cause


def too_long(place: str, limit: int = LONGEST_LINE) -> DataError:
    return DataError(
        f"{place} is longer than {limit >> 20} MiB; not the text format that was expected, or a quote "
        "that is never closed"
    )

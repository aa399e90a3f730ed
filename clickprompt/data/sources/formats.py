"""How the files of a log are read: the options of a schema, what file names say, and the pieces that are
read.
"""

import codecs
from dataclasses import dataclass

import pyarrow as pa

from clickprompt.data.sources.raw import RawPart
from clickprompt.data.sources.schema import NULLS
from clickprompt.errors import ConfigError, DataError

__all__ = [
    "ENDINGS",
    "FORMATS",
    "PIECE_ROWS",
    "DataFile",
    "FileFormat",
    "FilePart",
    "compression_of",
    "ending_format",
    "format_of",
]

FORMATS = ("parquet", "csv", "jsonl", "json", "delta", "iceberg")
PIECE_ROWS = 1 << 17

ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
}
"""ending of a file name, in any case, → format. A text format's ending may be followed by one of
`_COMPRESSIONS`.
"""

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True)
class FileFormat:
    """What a schema says of its files. Everything is optional.

    `format`: one of FORMATS; None: by ending. json is an array of objects, or one object per line.
    `delimiter`: of CSV; None: whichever of , ; tab | the first line has. It may have several characters.
    `quote`: of CSV; None or "": none. `names`: the columns of a CSV file without a header line. `nulls`:
    cells of CSV that are null, without the blanks around them.
    """

    format: str | None = None
    delimiter: str | None = None
    quote: str | None = '"'
    encoding: str = "utf-8"
    names: tuple[str, ...] | None = None
    nulls: tuple[str, ...] = NULLS

    def __post_init__(self) -> None:
        """Raises ConfigError for a setting with which no file can be read."""
        if self.format not in (None, *FORMATS):
            raise ConfigError(
                f"format={self.format!r} is not known; give one of {', '.join(FORMATS)}, or leave it out"
            )
        if self.delimiter is not None and (not self.delimiter or set(self.delimiter) & {"\n", "\r"}):
            raise ConfigError(
                f"delimiter={self.delimiter!r} can't stand between cells; give one or more characters "
                "of a line"
            )
        if self.quote and (len(self.quote) > 1 or not self.quote.isascii() or self.quote in "\r\n"):
            raise ConfigError(
                f"quote={self.quote!r} is not one ASCII character; give one, or an empty text for no quotes"
            )
        if self.quote and self.delimiter and self.quote in self.delimiter:
            raise ConfigError(
                f"delimiter={self.delimiter!r} contains quote={self.quote!r}; set another quote, or "
                "an empty one for none"
            )
        if self.names is not None and (
            not self.names or len(set(self.names)) < len(self.names) or "" in self.names
        ):
            raise ConfigError(
                f"names={list(self.names)} must be different and not empty; name every column of the "
                "file once"
            )
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise ConfigError(
                f"encoding={self.encoding!r} is not known; give one of Python's, such as utf-8, "
                "latin-1, cp1252"
            ) from error

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")


@dataclass(frozen=True)
class DataFile:
    """A file with rows, and what is known of them from elsewhere.

    `partitions`: column → value of all rows, from hive folders such as dt=2024-05-01 or a table's log; text,
    or null. `schema`: that of a Delta or Iceberg table, whose columns and types the rows get; None: the
    file's own.
    """

    uri: str
    size: int
    partitions: tuple[tuple[str, str | None], ...] = ()
    schema: pa.Schema | None = None


@dataclass(frozen=True)
class FilePart(RawPart):
    """Rows of one file that can be read independently of the others. It holds only names, so that Ray tasks
    can get it.
    """

    partitions: tuple[tuple[str, str | None], ...] = ()
    schema: pa.Schema | None = None
    how: FileFormat = FileFormat()

    @property
    def file(self) -> DataFile:
        return DataFile(self.uri, 0, self.partitions, self.schema)


def ending_format(uri: str) -> str | None:
    """Return the format that the name says; None if it says nothing that is read."""
    name = uri.rsplit("/", 1)[-1].lower()
    compressed = compression_of(uri) is not None
    stem = name.rsplit(".", 1)[0] if compressed else name
    for ending, kind in ENDINGS.items():
        if stem.endswith(ending) and not (compressed and kind == "parquet"):
            return kind
    return None


def compression_of(uri: str) -> str | None:
    name = uri.lower()
    return next((codec for ending, codec in _COMPRESSIONS.items() if name.endswith(ending)), None)


def format_of(uri: str, how: FileFormat) -> str:
    """Return parquet, csv, jsonl or json. Raises DataError if the name says no format."""
    kind = how.format or ending_format(uri)
    if kind is None:
        known = f"{', '.join(ENDINGS)}, text also with {', '.join(_COMPRESSIONS)}"
        raise DataError(
            f"{uri}: its name says no format that is read ({known}); set format: {', '.join(FORMATS[:4])}"
        )
    return kind

"""Read files of any kind as typed Arrow tables: the one door to finding.py and the formats.

    for file in find_files("logs/**/*.parquet", how):
        for part in file_parts(file, how):
            for table in read_rows(part, ["user_id", "price"], how):
                …

docs/guide/data.md says what is read.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from clickprompt.data.sources.csv_files import CsvRows, csv_columns, read_csv
from clickprompt.data.sources.finding import find_files
from clickprompt.data.sources.formats import DataFile, FileFormat, FilePart, format_of
from clickprompt.data.sources.json_files import JsonRows, json_columns, read_json
from clickprompt.data.sources.parquet_files import parquet_columns, parquet_parts, read_parquet

__all__ = [
    "DataFile",
    "FileFormat",
    "FilePart",
    "file_columns",
    "file_parts",
    "find_files",
    "known_columns",
    "read_rows",
]


def file_columns(file: DataFile, how: FileFormat) -> dict[str, pa.DataType] | None:
    """Return column → type as `read_rows` gives it, with partitions, and children of structs as a.b; None for
    JSON and files without a line.

    Raises DataError for a damaged file, and for two columns of one name.
    """
    kind = _kind(file, how)
    found = (
        parquet_columns(file) if kind == "parquet" else csv_columns(file.uri, how) if kind == "csv" else None
    )
    if found is None:
        return None
    return found | {name: pa.string() for name, _ in file.partitions if name not in found}


def known_columns(file: DataFile, how: FileFormat) -> list[str]:
    """Return the names of `file_columns`; for JSON, those of its first objects. Empty for a file without
    rows.
    """
    found = file_columns(file, how)
    if found is not None:
        return list(found)
    names = json_columns(file.uri, how) if format_of(file.uri, how) != "csv" else []
    return names and [*names, *(name for name, _ in file.partitions if name not in names)]


def file_parts(file: DataFile, how: FileFormat) -> list[FilePart]:
    """Cut the file into pieces that can be read independently: Parquet at row groups, text not at all. Raises
    DataError for a damaged Parquet file.
    """
    kind = _kind(file, how)
    if kind == "parquet":
        return parquet_parts(file, how)
    rows = CsvRows if kind == "csv" else JsonRows
    return [rows(file.uri, 0, -1, 0, int(kind == "csv" and how.names is None), file.partitions, None, how)]


def read_rows(part: FilePart, columns: Sequence[str], how: FileFormat) -> Iterator[pa.Table]:
    """Read `columns`, each once, of the part's rows in order, in pieces of at most PIECE_ROWS rows, with the
    types of `file_columns`.

    JSON gives text, or lists of text in pieces that hold a list; missing keys are null. A column that the
    file itself has comes before a partition's of the same name. Raises DataError naming file and line
    (Parquet: row) of what can't be read, and for a column that is nowhere.
    """
    kind = _kind(part, how)
    if kind == "parquet":
        return read_parquet(part, columns)
    return read_csv(part, columns, how) if kind == "csv" else read_json(part, columns, how)


def _kind(file: DataFile | FilePart, how: FileFormat) -> str:
    return "parquet" if file.schema is not None else format_of(file.uri, how)

"""Which kinds of types the columns of a log's files have."""

from collections.abc import Sequence

import pyarrow as pa

from clickprompt.data.sources.file_options import file_format
from clickprompt.data.sources.reading import DataFile, file_columns
from clickprompt.data.sources.schema import Explode, FileOptions
from clickprompt.data.transform.values import kind_of
from clickprompt.errors import DataError

__all__ = ["column_kinds"]


def column_kinds(
    files: Sequence[DataFile], options: FileOptions, wanted: Sequence[str], explode: Explode | None = None
) -> dict[str, dict[str, str]]:
    """Return column → kind of its type (values.py) → a file in which it has that kind.

    Raises DataError if a file lacks one of the columns.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in wanted}
    for file in files:
        columns = file_columns(file, file_format(options))
        if columns is None:
            continue
        for name in wanted:
            if explode and explode.into and name in explode.into:
                found[name].setdefault("text", file.uri)
                continue
            if name not in columns:
                names = ", ".join(map(str, columns))[:300]
                raise DataError(f"{file.uri}: has no column {name!r}, which the schema names; it has {names}")
            type_ = columns[name]
            if explode and name in explode.columns and pa.types.is_list(type_):
                type_ = type_.value_type
            found[name].setdefault(kind_of(type_), file.uri)
    return found

"""The columns of a prepared dataset's files (data/prepared/dataset.py), and their names."""

import re
from collections.abc import Sequence

import pyarrow as pa

from clickprompt.config import label_columns, number_columns
from clickprompt.errors import DataError

__all__ = ["field_columns", "shard_schema", "slug", "vocabulary_file", "vocabulary_schema"]


def shard_schema(
    columns: Sequence[str],
    grouped: bool = False,
    history: Sequence[str] = (),
    weighted: bool = False,
    numbers: Sequence[int] = (),
    labels: Sequence[str] = (),
) -> pa.Schema:
    """columns: of the fields' values; grouped: the log says which rows were shown together; history: the
    columns of one (config/history.py); weighted: the log says how much a row counts; numbers: fields whose
    numbers travel, too (config/numbers.py); labels: names of further ones (config/tasks.py).
    """
    group = [pa.field("group", pa.int64(), nullable=False)] if grouped else []
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("label", pa.int8(), nullable=False),
            pa.field("timestamp", pa.int64(), nullable=False),
            *group,
            *(
                pa.field(column, pa.int32(), nullable=False)
                for column in [*columns, *history, *number_columns(numbers)]
            ),
            *([pa.field("importance", pa.float32(), nullable=False)] if weighted else []),
            *(pa.field(name, pa.int8(), nullable=False) for name in label_columns(labels)),
        ]
    )


def vocabulary_schema() -> pa.Schema:
    return pa.schema(
        [pa.field("id", pa.int32()), pa.field("value", pa.string()), pa.field("train_count", pa.int64())]
    )


def field_columns(names: Sequence[str]) -> list[str]:
    """Return the fields' columns in the shards: "User ID" → "f_user_id". The prefix keeps a field's column
    apart from `row_id`, `label`, `timestamp` and whatever else travels with a row.

    Raises DataError for two names that make the same column.
    """
    columns: dict[str, str] = {}
    for name in names:
        column = f"f_{slug(name)}"
        if column in columns:
            raise DataError(
                f"the fields {columns[column]!r} and {name!r} differ in signs and cases only; give "
                "one of them another name"
            )
        columns[column] = name
    return list(columns)


def slug(name: str) -> str:
    """Return the name in lower-case letters, digits and _: "User ID" → "user_id"; possibly empty."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def vocabulary_file(number: int, name: str) -> str:
    """Return the vocabulary's path below the dataset's folder. The number tells fields apart; a field's name
    may be longer than a file's.
    """
    return f"vocab/{number:02d}-{slug(name)[:40]}.parquet"

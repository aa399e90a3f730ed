"""The columns of a prepared dataset's files (data/prepared/dataset.py)."""

from collections.abc import Sequence

import pyarrow as pa

from clickprompt.config import history_columns

__all__ = ["shard_schema", "vocabulary_schema"]


def shard_schema(columns: Sequence[str], grouped: bool = False, history: int = 0) -> pa.Schema:
    """columns: of the fields' values; grouped: the log says which rows were shown together; history: items of
    one (history.py).
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
                for column in [*columns, *history_columns(history)]
            ),
        ]
    )


def vocabulary_schema() -> pa.Schema:
    return pa.schema(
        [pa.field("id", pa.int32()), pa.field("value", pa.string()), pa.field("train_count", pa.int64())]
    )

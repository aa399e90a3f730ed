"""Write tables as Parquet files of a dataset, and return what its manifest says of them."""

import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.io import storage

__all__ = ["write_parquet", "write_row_groups"]


def write_parquet(uri: str, file: str, table: pa.Table, row_group_rows: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_rows, compression="zstd")
    content = buffer.getvalue()
    storage.write_bytes(storage.join(uri, file), content)
    return {"file": file, "bytes": len(content), "sha256": storage.sha256_bytes(content)}


def write_row_groups(
    uri: str, file: str, schema: pa.Schema, tables: Iterable[pa.Table], row_group_rows: int
) -> dict[str, Any]:
    """Write the tables one after the other as one Parquet file of row groups of `row_group_rows`.

    Only a row group more than one table is held.
    """
    place = storage.join(uri, file)
    with storage.open_output(place) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        rest = schema.empty_table()
        for table in tables:
            rest = pa.concat_tables([rest, table])
            while len(rest) > row_group_rows:
                writer.write_table(rest.slice(0, row_group_rows))
                rest = rest.slice(row_group_rows)
        writer.write_table(rest)
    return {"file": file, "bytes": storage.file_size(place), "sha256": storage.sha256(place)}

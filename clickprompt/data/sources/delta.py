"""List the files of a Delta table's newest version. Needs deltalake."""

import os
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from clickprompt.data.sources.formats import DataFile
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["delta_files"]

_PARTITION = "partition."


def delta_files(uri: str) -> list[DataFile]:
    """List the files. Raises DataError for a table with deletion vectors or mapped columns."""
    table = DeltaTable(uri, storage_options=_options(uri))
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mapping != "none":
        raise DataError(
            f"{uri}: its files have other column names than the table (column mapping, {mapping}); "
            "write it as a table without"
        )
    if "deletionVectors" in (table.protocol().reader_features or []) and _has_deletion_vectors(table):
        raise DataError(
            f"{uri}: some of its deleted rows are only marked (deletion vectors); run REORG TABLE … "
            "APPLY (PURGE) on it first"
        )
    schema = pa.schema(table.schema().to_arrow())
    actions = pa.table(table.get_add_actions(flatten=True))
    partitions = [name for name in actions.column_names if name.startswith(_PARTITION)]
    texts = {
        name.removeprefix(_PARTITION): actions.column(name).cast(pa.string()).to_pylist()
        for name in partitions
    }
    files = zip(actions.column("path").to_pylist(), actions.column("size_bytes").to_pylist(), strict=True)
    return [
        DataFile(
            _address(uri, path), size, tuple((name, values[index]) for name, values in texts.items()), schema
        )
        for index, (path, size) in enumerate(files)
    ]


def _has_deletion_vectors(table: DeltaTable) -> bool:
    return any(len(pa.record_batch(batch)) for batch in table.deletion_vectors())


def _address(uri: str, path: str) -> str:
    path = unquote(path)
    return path if "://" in path else storage.join(uri, path)


def _options(uri: str) -> dict[str, str] | None:
    """Return the endpoint as storage.py takes it from the environment; deltalake takes the rest from there
    itself.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not uri.startswith("s3://") or not endpoint:
        return None
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}

"""Find the files of an Iceberg table's newest version from its metadata files alone, without a catalog. Needs
pyiceberg.
"""

import re
from typing import Any

import pyarrow as pa
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import FileFormat as IcebergFormat
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import StaticTable
from pyiceberg.transforms import IdentityTransform

from clickprompt.data.sources.formats import DataFile
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["iceberg_files"]

_VERSION = re.compile(r"v?(\d+)[-.].*metadata\.json")


def iceberg_files(uri: str) -> list[DataFile]:
    """List the files. `uri`: a table's folder, or one of its metadata files. Raises DataError for delete
    files, and for files of another format.
    """
    location = uri if uri.endswith(".metadata.json") else _newest(uri)
    files = _Storage()
    # StaticTable.from_metadata would import whatever class the table's properties name for its files
    table = StaticTable(
        ("table", uri),
        FromInputFile.table_metadata(files.new_input(location)),
        location,
        files,
        NoopCatalog("none"),
    )
    schema = table.schema()
    defaults = next((field.name for field in schema.fields if field.initial_default is not None), None)
    if defaults is not None:
        raise DataError(
            f"{uri}: column {defaults!r} has a default for older files, which isn't read; rewrite its "
            "data files"
        )
    found = []
    for task in table.scan().plan_files():
        if task.delete_files:
            raise DataError(
                f"{uri}: some of its deleted rows are only marked (delete files); run "
                "rewrite_data_files on it first"
            )
        if task.file.file_format != IcebergFormat.PARQUET:
            raise DataError(
                f"{task.file.file_path}: a data file of {task.file.file_format.value}; rewrite the "
                "table as Parquet"
            )
        partitions = _partitions(schema, table.specs()[task.file.spec_id], task.file.partition)
        found.append(
            DataFile(
                _address(task.file.file_path),
                task.file.file_size_in_bytes,
                partitions,
                schema_to_pyarrow(schema),
            )
        )
    return found


def _newest(folder: str) -> str:
    """Return the metadata file with the highest number: each version writes its own."""
    names = [
        (int(match[1]), name)
        for name in storage.list_names(f"{folder}/metadata")
        if (match := _VERSION.fullmatch(name))
    ]
    if not names:
        raise DataError(
            f"{folder}: no metadata file's name begins with a number; name the metadata file of the "
            "version to read"
        )
    newest = [name for number, name in names if number == max(names)[0]]
    if len(newest) > 1:
        raise DataError(
            f"{folder}: {' and '.join(newest)} are both the newest; name the one that the catalog points to"
        )
    return f"{folder}/metadata/{newest[0]}"


def _partitions(schema: Schema, spec: PartitionSpec, values: Any) -> tuple[tuple[str, str | None], ...]:
    """Return the columns that are partitions as they are; files imported from hive folders lack these
    columns.
    """
    found = []
    for index, field in enumerate(spec.fields):
        if isinstance(field.transform, IdentityTransform):
            name = schema.find_column_name(field.source_id)
            if name is not None:
                found.append(
                    (name, _text(values[index], schema_to_pyarrow(schema.find_type(field.source_id))))
                )
    return tuple(found)


def _text(value: Any, kind: pa.DataType) -> str | None:
    """Return a partition's value as text. Dates and times are stored as days and microseconds."""
    if type(value) is int and pa.types.is_temporal(kind):
        return str(
            pa.scalar(value, pa.int32() if pa.types.is_date32(kind) else pa.int64())
            .cast(kind)
            .cast(pa.string())
            .as_py()
        )
    return None if value is None else str(pa.scalar(value).cast(pa.string()).as_py())


def _address(location: str) -> str:
    """Return the location in the form that storage.py takes."""
    scheme, separator, path = location.partition("://")
    return (
        path
        if scheme == "file"
        else f"s3://{path}"
        if scheme in ("s3a", "s3n")
        else location
        if separator
        else location.removeprefix("file:")
    )


class _File(InputFile):
    def __len__(self) -> int:
        return storage.file_size(_address(self.location)) or 0

    def exists(self) -> bool:
        return storage.exists(_address(self.location))

    def open(self, seekable: bool = True) -> Any:
        return storage.open_input(_address(self.location))


class _Storage(FileIO):
    """Let pyiceberg read files as everything else here does."""

    def new_input(self, location: str) -> InputFile:
        return _File(location)

    def new_output(self, location: str) -> OutputFile:
        raise NotImplementedError("tables are only read")

    def delete(self, location: Any) -> None:
        raise NotImplementedError("tables are only read")

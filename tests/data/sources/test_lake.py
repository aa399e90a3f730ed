"""Delta and Iceberg tables, written by deltalake and pyiceberg: the rows of their newest version, and nothing
else.
"""

import base64
import json
import struct
import sys
from datetime import date
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile as ManifestedFile
from pyiceberg.manifest import (
    DataFileContent,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.manifest import FileFormat as IcebergFormat
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import DoubleType, LongType
from pyroaring import BitMap

from clickprompt.data.sources.reading import FileFormat, file_columns, find_files
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from tests.support.reading import rows

DAY = date(2024, 5, 1)
FIRST = pa.table(
    {
        "id": pa.array([1, 2], pa.int32()),
        "kind": ["x", "y/z é"],
        "day": [DAY, None],
        "user": [{"name": "Ann"}, None],
    }
)


def in_order(found, key="id"):
    return sorted(found, key=lambda row: row[key])


def expected(number, kind, day, name, **more):
    return {"id": number, "kind": kind, "day": day, "user.name": name} | more


# Delta


@pytest.fixture
def delta(place):
    """A table in two partition columns, with a column that the first files lack."""
    uri = storage.join(place, "ü table")
    options = {"AWS_ALLOW_HTTP": "true"}
    deltalake.write_deltalake(uri, FIRST, partition_by=["kind", "day"], storage_options=options)
    later = pa.table(
        {
            "id": pa.array([3], pa.int32()),
            "kind": ["x"],
            "day": [DAY],
            "user": [{"name": "Bob"}],
            "price": [1.5],
        }
    )
    deltalake.write_deltalake(uri, later, mode="append", schema_mode="merge", storage_options=options)
    return uri


DELTA_ROWS = [
    expected(1, "x", DAY, "Ann", price=None),
    expected(2, "y/z é", None, None, price=None),
    expected(3, "x", DAY, "Bob", price=1.5),
]


def test_delta_rows_columns_and_partitions(delta):
    for how in ({}, {"format": "delta"}):
        assert in_order(rows(delta, **how)) == DELTA_ROWS
    assert file_columns(find_files(delta, FileFormat())[0], FileFormat()) == {
        "id": pa.int32(),
        "kind": pa.string(),
        "day": pa.date32(),
        "price": pa.float64(),
        "user.name": pa.string(),
    }
    with pytest.raises(DataError, match="its table has no column 'age'; it has id, kind, day"):
        rows(delta, ["age"])


def test_delta_files_that_were_removed_are_not_read(tmp_path):
    uri = str(tmp_path / "table")
    deltalake.write_deltalake(uri, FIRST.select(["id"]))
    table = deltalake.DeltaTable(uri)
    table.delete("id = 1")
    assert rows(uri) == [{"id": 2}]
    deltalake.write_deltalake(uri, pa.table({"id": pa.array([7, 8], pa.int32())}), mode="overwrite")
    assert rows(uri) == [{"id": 7}, {"id": 8}]
    assert len(list(Path(uri).glob("*.parquet"))) == 3
    deltalake.DeltaTable(uri).delete()
    with pytest.raises(DataError, match="has no files"):
        rows(uri)


def test_delta_partitions_have_the_tables_types(tmp_path):
    uri = str(tmp_path / "table")
    columns = {
        "int": pa.array([7, None], pa.int64()),
        "bool": pa.array([True, False]),
        "double": pa.array([1.5, 2.0]),
        "decimal": pa.array(["1.50", "2.00"]).cast(pa.decimal128(5, 2)),
        "at": pa.array([1714557600123456, 5], pa.timestamp("us", "UTC")),
        "text": pa.array(["a=b", "ü %"]),
    }
    table = pa.table({**columns, "id": [0, 1]})
    deltalake.write_deltalake(uri, table, partition_by=list(columns))
    assert in_order(rows(uri, table.column_names)) == table.to_pylist()


def test_delta_columns_of_a_wider_type_are_the_tables(tmp_path):
    uri = str(tmp_path / "table")
    deltalake.write_deltalake(uri, pa.table({"id": pa.array([1], pa.int32())}))
    log = Path(uri, "_delta_log", f"{1:020}.json")
    action = json.loads(
        next(
            line
            for line in Path(uri, "_delta_log", f"{0:020}.json").read_text().splitlines()
            if "metaData" in line
        )
    )
    action["metaData"]["schemaString"] = action["metaData"]["schemaString"].replace("integer", "long")
    log.write_text(json.dumps(action))
    [file] = find_files(uri, FileFormat())
    assert file_columns(file, FileFormat()) == {"id": pa.int64()}
    assert rows(uri) == [{"id": 1}]


def with_deletion_vector(uri):
    """The table's one file loses its first row, by a vector within the log: a magic number, one bitmap of
    32-bit numbers, in Z85.
    """
    bitmap = struct.pack("<iqi", 1681511377, 1, 0) + BitMap([0]).serialize()
    bitmap += b"\0" * (-len(bitmap) % 4)
    first = Path(uri, "_delta_log", f"{0:020}.json")
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    add = next(action["add"] for action in actions if "add" in action)
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    vector = {"storageType": "i", "pathOrInlineDv": z85(bitmap), "sizeInBytes": len(bitmap), "cardinality": 1}
    changed = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7} | features},
        {"remove": {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}},
        {"add": add | {"deletionVector": vector}},
    ]
    Path(uri, "_delta_log", f"{1:020}.json").write_text("\n".join(map(json.dumps, changed)))


def z85(content):
    """As base85 of RFC 1924, with other characters."""
    ours = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    theirs = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    return base64.b85encode(content).decode().translate(str.maketrans(theirs, ours))


def test_delta_deletion_vectors_are_refused_with_the_remedy(tmp_path):
    uri = str(tmp_path / "table")
    deltalake.write_deltalake(uri, FIRST.select(["id"]))
    with_deletion_vector(uri)
    with pytest.raises(
        DataError,
        match=r"table: some of its deleted rows are only marked \(deletion vectors\); run REORG TABLE",
    ):
        rows(uri)


def test_delta_mapped_columns_are_refused(tmp_path):
    uri = str(tmp_path / "table")
    deltalake.write_deltalake(uri, FIRST.select(["id"]))
    log = Path(uri, "_delta_log", f"{0:020}.json")
    log.write_text(
        log.read_text().replace('"configuration":{', '"configuration":{"delta.columnMapping.mode":"name"')
    )
    with pytest.raises(DataError, match="column mapping, name"):
        rows(uri)


# Iceberg


class Iceberg:
    def __init__(self, folder):
        catalog = SqlCatalog("tests", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
        catalog.create_namespace("logs")
        self.table = catalog.create_table("logs.clicks", FIRST.schema)
        self.folder = f"{folder}/logs/clicks"
        with self.table.update_spec() as spec:
            spec.add_field("kind", IdentityTransform(), "kind")
        self.table.append(FIRST)


@pytest.fixture
def iceberg(tmp_path):
    return Iceberg(str(tmp_path))


def test_iceberg_rows_of_a_table_whose_columns_were_renamed_widened_and_added(iceberg):
    with iceberg.table.update_schema() as schema:
        schema.rename_column("id", "number")
        schema.rename_column("user.name", "first")
        schema.add_column("price", DoubleType())
    with iceberg.table.update_schema() as schema:
        schema.update_column("number", field_type=LongType())
        schema.add_column("id", DoubleType())  # the old name once more, for something else
    iceberg.table.append(
        pa.table(
            {
                "number": [3],
                "kind": ["x"],
                "day": [DAY],
                "user": [{"first": "Bob"}],
                "price": [1.5],
                "id": [0.5],
            }
        )
    )
    [*found] = in_order(rows(iceberg.folder), "number")
    assert [list(row.values()) for row in found] == [
        [1, "x", DAY, None, None, "Ann"],
        [2, "y/z é", None, None, None, None],
        [3, "x", DAY, 1.5, 0.5, "Bob"],
    ]
    columns = file_columns(find_files(iceberg.folder, FileFormat())[0], FileFormat())
    assert columns == {
        "number": pa.int64(),
        "kind": pa.string(),
        "day": pa.date32(),
        "price": pa.float64(),
        "id": pa.float64(),
        "user.first": pa.string(),
    }


def test_iceberg_files_that_were_removed_are_not_read(iceberg):
    before = iceberg.table.metadata_location
    iceberg.table.delete("id = 1")
    assert [row["id"] for row in rows(iceberg.folder)] == [2]
    assert [row["id"] for row in in_order(rows(before.removeprefix("file://")))] == [1, 2]  # that version
    iceberg.table.overwrite(FIRST.slice(0, 1))
    assert [row["id"] for row in rows(iceberg.folder, format="iceberg")] == [1]


def test_iceberg_files_from_hive_folders_have_their_partitions(tmp_path, iceberg):
    with iceberg.table.update_spec() as spec:
        spec.add_field("day", IdentityTransform(), "day")
    path = tmp_path / "kind=q" / "day=2024-05-02" / "old.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": pa.array([9], pa.int32())}), path)
    manifested = ManifestedFile.from_args(
        content=DataFileContent.DATA,
        file_path=f"file://{path}",
        file_format=IcebergFormat.PARQUET,
        partition=Record("q", (date(2024, 5, 2) - date(1970, 1, 1)).days),
        record_count=1,
        file_size_in_bytes=path.stat().st_size,
        spec_id=iceberg.table.spec().spec_id,
    )
    with iceberg.table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(manifested)
    assert in_order(rows(iceberg.folder))[-1] == expected(9, "q", date(2024, 5, 2), None)


class Deletes(ManifestWriterV2):
    """pyiceberg itself writes no delete files."""

    def content(self):
        return ManifestContent.DELETES

    @property
    def _meta(self):
        return super()._meta | {"content": "deletes"}


def test_iceberg_delete_files_are_refused_with_the_remedy(tmp_path, iceberg):
    table, files = iceberg.table, PyArrowFileIO()
    [*tasks] = table.scan().plan_files()
    path = tmp_path / "deletes.parquet"
    pq.write_table(pa.table({"file_path": [tasks[0].file.file_path], "pos": [0]}), path)
    deletes = ManifestedFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=f"file://{path}",
        file_format=IcebergFormat.PARQUET,
        partition=tasks[0].file.partition,
        record_count=1,
        file_size_in_bytes=path.stat().st_size,
        spec_id=table.spec().spec_id,
    )
    snapshot = table.current_snapshot()
    number = table.metadata.last_sequence_number + 1
    with Deletes(
        table.spec(), table.schema(), files.new_output(f"file://{tmp_path}/m.avro"), 77, "null"
    ) as writer:
        writer.add_entry(
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED, snapshot_id=77, sequence_number=number, data_file=deletes
            )
        )
    manifest = writer.to_manifest_file()
    with write_manifest_list(
        2, files.new_output(f"file://{tmp_path}/list.avro"), 77, snapshot.snapshot_id, number, "null"
    ) as manifests:
        manifests.add_manifests([*snapshot.manifests(files), manifest])
    current = Path(table.metadata_location.removeprefix("file://"))
    metadata = json.loads(current.read_text())
    metadata["snapshots"].append(
        metadata["snapshots"][-1]
        | {
            "snapshot-id": 77,
            "sequence-number": number,
            "manifest-list": f"file://{tmp_path}/list.avro",
            "parent-snapshot-id": snapshot.snapshot_id,
        }
    )
    metadata |= {"current-snapshot-id": 77, "last-sequence-number": number}
    metadata["refs"]["main"]["snapshot-id"] = 77
    (current.parent / "00009-with-deletes.metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(
        DataError,
        match=r"clicks: some of its deleted rows are only marked \(delete files\); run rewrite_data_files",
    ):
        rows(iceberg.folder)


def test_an_iceberg_version_that_is_not_clear_is_refused(iceberg):
    newest = Path(iceberg.table.metadata_location.removeprefix("file://"))
    (newest.parent / f"{newest.name[:5]}-other.metadata.json").write_bytes(newest.read_bytes())
    with pytest.raises(DataError, match="are both the newest; name the one that the catalog points to"):
        rows(iceberg.folder)


def test_an_iceberg_table_that_was_moved_is_one_line(tmp_path, iceberg):
    Path(iceberg.folder).rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no such file"):
        rows(str(tmp_path / "moved"))


# Both


def test_patterns_that_reach_into_a_table_are_refused(tmp_path):
    Iceberg(str(tmp_path))
    deltalake.write_deltalake(str(tmp_path / "delta"), FIRST.select(["id", "kind"]), partition_by=["kind"])
    file = next((tmp_path / "delta" / "kind=x").iterdir())
    for pattern in (
        "delta/**/*.parquet",
        "delta/kind=x",
        f"delta/kind=x/{file.name}",
        "**/*.parquet",
        "",
        "logs/clicks/data",
        "logs/*/data/*/*",
    ):
        with pytest.raises(
            DataError,
            match=r"reaches into a Delta or Iceberg table, .*; name the table's folder, .*/(delta|clicks)$",
        ):
            find_files(str(tmp_path / pattern), FileFormat())


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_damaged_log_is_one_line(tmp_path, kind):
    if kind == "delta":
        folder = str(tmp_path / "delta")
        deltalake.write_deltalake(folder, FIRST.select(["id"]))
        logs = [*(tmp_path / "delta" / "_delta_log").glob("*.json")]
    else:
        folder = Iceberg(str(tmp_path)).folder
        logs = [*Path(folder, "metadata").glob("*.avro")]
    for log in logs:
        log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    with pytest.raises(DataError, match="can't read this table") as raised:
        find_files(folder, FileFormat())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("kind", "library"), [("delta", "deltalake"), ("iceberg", "pyiceberg")])
def test_a_missing_library_is_one_line(tmp_path, monkeypatch, kind, library):
    if kind == "delta":
        folder = str(tmp_path / "delta")
        deltalake.write_deltalake(folder, FIRST.select(["id"]))
    else:
        folder = Iceberg(str(tmp_path)).folder
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        DataError,
        match=rf"is read by {library}, which isn't installed; pip install -c constraints.txt -e '\.\[lake\]'",
    ):
        find_files(folder, FileFormat())

"""Files that are no text are called what they are."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from clickprompt.data.sources.draft import draft_schema
from clickprompt.data.sources.formats import FileFormat
from clickprompt.data.sources.text_streams import open_text
from clickprompt.errors import DataError

TEXT = b"user,item,clicked\n" + b"".join(b"u%d,i%d,%d\n" % (row % 7, row % 5, row % 2) for row in range(90))
TABLE = pa.table({"user": ["a", "b"], "clicked": [0, 1]})


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("log.csv", TEXT)


def tarred(path):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("log.csv")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT))


def database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table log (clicked int)")
    connection.close()


def arrow(path):
    with pa.ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


def zstandard(path):
    with pa.CompressedOutputStream(pa.OSFile(path, "wb"), "zstd") as stream:
        stream.write(TEXT)


def written(content):
    def write(path):
        with open(path, "wb") as stream:
            stream.write(content)

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (zipped, "a ZIP archive or an Excel workbook; unpack it"),
        (tarred, "a tar archive; unpack it"),
        (database, "an SQLite database; write it as Parquet or CSV"),
        (arrow, "Arrow's or Feather's; write it"),
        (
            lambda path: pyarrow.feather.write_feather(TABLE, path, version=1),
            "Arrow's or Feather's; write it",
        ),
        (lambda path: pyarrow.orc.write_table(TABLE, path), "ORC; write it"),
        (
            lambda path: pq.write_table(TABLE, path),
            "Parquet; give it a name that ends in .parquet, or set format",
        ),
        (zstandard, "packed by Zstandard; give it a name that ends in .zst"),
        (written(gzip.compress(TEXT)), "packed by gzip; give it a name that ends in .gz"),
        (written(bz2.compress(TEXT)), "packed by bzip2; give it a name that ends in .bz2"),
        (written(lzma.compress(TEXT)), "packed by xz; unpack it"),
        *(
            (written(pickle.dumps({"user": [1]}, protocol)), "a pickle, which could run")
            for protocol in (2, 5)
        ),
        (written(b"%PDF-1.7\n..."), "a PDF; write it"),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.dat", "log.jsonl"])
def test_what_is_no_text(tmp_path, write, said, name):
    write(str(tmp_path / name))
    with pytest.raises(DataError, match=f"{name}: not text but {said}"):
        draft_schema([str(tmp_path / name)], str(tmp_path))


@pytest.mark.parametrize(
    "first", ["ORCID", "ORC", "PAR1", "PKs", "BZh9", "Obj", "FEA", "Rar!", "%PDF", "ARROW1"]
)
def test_text_that_begins_alike(tmp_path, first):
    for content in (f"{first},item\n1,2\n", f"{first}\n1\n", f"{first}\titem\r\n", first):
        (tmp_path / "log.csv").write_text(content)
        with open_text(str(tmp_path / "log.csv"), FileFormat()) as stream:
            assert stream.read() == content.encode()


def test_an_archive_within_a_packed_file(tmp_path):
    tarred(tmp_path / "log.tar")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((tmp_path / "log.tar").read_bytes()))
    with pytest.raises(DataError, match=r"log\.csv\.gz: not text but a tar archive"):
        draft_schema([str(tmp_path / "log.csv.gz")], str(tmp_path))

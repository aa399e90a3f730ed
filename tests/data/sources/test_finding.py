"""Which files a pattern names."""

import re

import pytest

from clickprompt.data.sources.reading import FileFormat, find_files
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from tests.support.reading import write

FILES = [
    "a.csv",
    "b.CSV.gz",
    "c.parquet",
    "README.md",
    "_SUCCESS",
    ".hidden.csv",
    "_temporary/0/a.csv",
    ".sys/x.csv",
    "dt=2024-05-01/part-0.csv",
    "dt=2024-05-01/part-1.csv",
    "dt=2024-05-01/_part.csv",
    "dt=2024-05-02/deep/er/part-2.csv",
    "raw/part-00000",
    "raw/part-00001",
]


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        place = storage.join(request.getfixturevalue("shared_bucket"), "log")
        if storage.list_names(place):
            return place
    else:
        place = str(tmp_path / "log")
    for name in FILES:
        write(place, name, "a,b\n1,2\n")
    return place


@pytest.mark.parametrize(
    ("pattern", "expected", "how"),
    [
        ("/a.csv", ["a.csv"], {}),
        ("", ["a.csv", "b.CSV.gz", "c.parquet", *FILES[8:10], FILES[11]], {}),
        ("/", ["a.csv", "b.CSV.gz", "c.parquet", *FILES[8:10], FILES[11]], {}),
        ("/*.csv", ["a.csv"], {}),
        ("/?.csv", ["a.csv"], {}),
        ("/[ab].*", ["a.csv", "b.CSV.gz"], {}),
        ("/[!a].*", ["b.CSV.gz", "c.parquet"], {}),
        ("/*/*.csv", FILES[8:10], {}),
        ("/dt=*/*.csv", FILES[8:10], {}),
        ("/dt=*/**/*.csv", [*FILES[8:10], FILES[11]], {}),
        ("/**/*.csv", ["a.csv", *FILES[8:10], FILES[11]], {}),
        ("/**/part-2.csv", [FILES[11]], {}),
        ("/**/er/*", [FILES[11]], {}),
        ("/dt=2024-05-01", FILES[8:10], {}),
        ("/dt=2024-05-01/_*", ["dt=2024-05-01/_part.csv"], {}),
        ("/.hidden.csv", [".hidden.csv"], {}),
        ("/_temporary/*/*.csv", ["_temporary/0/a.csv"], {}),
        ("/_temporary", ["_temporary/0/a.csv"], {}),
        ("/raw", FILES[12:], {"format": "csv"}),
        ("/raw/*", FILES[12:], {"format": "csv"}),
        ("/raw/part-00000", FILES[12:13], {"format": "csv"}),
        ("/**/part*", [*FILES[8:10], *FILES[11:]], {"format": "csv"}),
    ],
)
def test_files_of_a_pattern(folder, pattern, expected, how):
    found = find_files(f"{folder}{pattern}", FileFormat(**how))
    assert [file.uri for file in found] == sorted(storage.join(folder, name) for name in expected)
    assert all(file.size == 8 for file in found)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/nothing.csv", "no such file"),
        ("/nothing/*.csv", "no such file"),
        ("/*.tsv", "no such file"),
        ("/*/_*.tsv", "no such file"),
        ("/dt=*", "only folders have such names; end it in /\\*\\*"),
        ("/raw", "no file in this folder has a name that ends in"),
        ("/raw/*", "its name says no format that is read .*; set format:"),
        ("/README.md", "its name says no format"),
    ],
)
def test_what_names_no_file(folder, pattern, expected):
    with pytest.raises(DataError, match=expected) as raised:
        find_files(f"{folder}{pattern}", FileFormat())
    assert re.fullmatch("[^\n]+", str(raised.value))


def test_names_that_look_like_patterns(tmp_path):
    """What is there counts as it is written."""
    for name in ("log[1].csv", "log*.csv", "log?.csv", "log1.csv", "a b ü%20.csv"):
        uri = write(str(tmp_path), name, "a\n1\n")
        assert [file.uri for file in find_files(uri, FileFormat())] == [uri]


def test_a_table_of_another_kind_is_refused(tmp_path):
    write(str(tmp_path), "a.csv", "a\n1\n")
    for kind in ("delta", "iceberg"):
        with pytest.raises(DataError, match=f"no {kind} table; name the table's folder"):
            find_files(str(tmp_path), FileFormat(format=kind))


def test_an_unknown_place_is_refused():
    with pytest.raises(InputError, match="can't be opened"):
        find_files("nosuch://bucket/a.csv", FileFormat())

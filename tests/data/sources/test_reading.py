"""Parquet, CSV and JSON files → typed tables; what can't be read is one line with file and line."""

import bz2
import gzip
import json
import pickle
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from clickprompt.data.sources.formats import PIECE_ROWS
from clickprompt.data.sources.reading import (
    DataFile,
    FileFormat,
    file_columns,
    file_parts,
    find_files,
    read_rows,
)
from clickprompt.errors import ConfigError, DataError
from tests.support.reading import rows, tables, values, write

AB = [("1", "x"), ("2", None)]
TEXT = "a,b\n1,x\n2,\n"


def zstd(content):
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def refusal(pattern, columns=None, **how):
    with pytest.raises((DataError, ConfigError)) as raised:
        rows(pattern, columns, **how)
    message = str(raised.value)
    assert "\n" not in message
    return message.replace(pattern, "FILE")


# CSV


@pytest.mark.parametrize(
    ("name", "content", "how"),
    [
        ("log.csv", TEXT, {}),
        ("log.CSV", TEXT, {}),
        ("log.csv", "\ufeff" + TEXT, {}),
        ("log.csv", TEXT.replace("\n", "\r\n"), {}),
        ("log.csv", TEXT.replace("\n", "\r\n").rstrip(), {}),
        ("log.csv", "\n\n" + TEXT.replace("\n", "\n\n"), {}),
        ("log.csv", TEXT.replace(",", ";"), {}),
        ("log.csv", TEXT.replace(",", "|"), {}),
        ("log.tsv", TEXT.replace(",", "\t"), {}),
        ("log.csv", TEXT.replace(",", "\x01"), {"delimiter": "\x01"}),
        ("log.csv", TEXT.replace(",", "::"), {"delimiter": "::"}),
        ("log.csv", TEXT.replace(",", "§"), {"delimiter": "§"}),
        ("log.csv", 'a," b"\n"1","x"\n"2",""\n', {}),
        ("log.csv", "a,b\n1,x\n2, NULL \n", {}),
        ("log.csv", "a,b\n1,x\n2,\\N\n", {}),
        ("log.csv", 'a,b\n1,x\n2,"NaN"\n', {}),
        ("log.csv", "'a,b'\n1,x\n2,\n".replace("'a,b'", "'a','b'"), {"quote": "'"}),
        ("log", TEXT, {"format": "csv"}),
        ("log.txt", "1::x\n2::", {"format": "csv", "delimiter": "::", "names": ("a", "b"), "quote": None}),
        ("log.csv", "1,x\n2,\n", {"names": ("a", "b")}),
        ("log.csv", "1;x\n2;\n", {"names": ("a", "b")}),
        ("log.csv.gz", gzip.compress(TEXT.encode(), mtime=0), {}),
        ("log.csv.gz", gzip.compress(b"a,b\n1,", mtime=0) + gzip.compress(b"x\n2,\n", mtime=0), {}),
        ("log.CSV.GZ", gzip.compress(TEXT.encode(), mtime=0), {}),
        ("log.csv.bz2", bz2.compress(TEXT.encode()), {}),
        ("log.csv.zst", zstd(TEXT.encode()), {}),
        ("log.csv.zst", zstd(b"a,b\n1,x\n") + zstd(b"2,\n"), {}),
        ("log.csv", TEXT.encode("utf-16"), {"encoding": "utf-16"}),
    ],
)
def test_csv_of_any_dialect(place, name, content, how):
    uri = write(place, name, content)
    [file] = find_files(uri, FileFormat(**how))
    assert file_columns(file, FileFormat(**how)) == {"a": pa.string(), "b": pa.string()}
    assert values(uri, **how) == AB


@pytest.mark.parametrize(
    ("content", "how", "expected"),
    [
        ('a,b\n"1,5","say ""hi""\r\nthere"\n', {}, [("1,5", 'say "hi"\r\nthere')]),
        ('a::b\n"1::5"::x:y\n', {"delimiter": "::"}, [("1::5", "x:y")]),
        ("a::b\n1:::x\n", {"delimiter": "::"}, [("1", ":x")]),
        ('a,b\n1,5" wide\n', {}, [("1", '5" wide')]),
        ('a,b\n"1,x"\n', {"quote": ""}, [('"1', 'x"')]),
        ("a,b\n007,1.50\n", {}, [("007", "1.50")]),
        ("a,b\n9007199254740993,TRUE\n", {}, [("9007199254740993", "TRUE")]),
        ("a,b\n x ,\ty\n", {}, [(" x ", "\ty")]),  # blanks are the value rules' to judge
        ("a,b\nNA,-\n", {"nulls": ("-",)}, [("NA", None)]),
        ("a,b\n,  \n", {"nulls": ()}, [("", "  ")]),
        ("a,b,\n1,x,\n", {}, [("1", "x")]),
        ("a\n1\n", {}, [("1",)]),
        ("a,b\n", {}, []),
        ("caf\xe9,b\n\xe9,x\n".encode("latin-1"), {"encoding": "latin-1"}, [("é", "x")]),
    ],
)
def test_csv_cells_stay_what_they_are(tmp_path, content, how, expected):
    assert values(write(str(tmp_path), "log.csv", content), **how) == expected


@pytest.mark.parametrize(
    ("content", "how", "expected"),
    [
        ("a,b\n1,x\n2\n3,y\n", {}, "FILE, line 3: 1 cell where the header has 2"),
        ("a,b\n1,x\n2,y,z\n", {}, "FILE, line 3: 3 cells where the header has 2"),
        ('a,b\n"1\n\n",x\n\n2,y,z\n', {}, "FILE, line 6: 3 cells"),
        ("1,x\n2,y,z\n", {"names": ("a", "b")}, "FILE, line 2: 3 cells where names: gives 2"),
        ("1,x\n2,y\n", {"names": ("a", "b", "c")}, "FILE, line 1: 2 cells and 3 names"),
        ("a::b\n1::x\n2::y::z\n", {"delimiter": "::"}, "FILE, line 3: 3 cells"),
        ("a::b\n1::x\n2::y\x1f\n", {"delimiter": "::"}, "FILE, line 3: holds the control character"),
        ("a,b,a\n1,x,2\n", {}, "FILE, line 1: two columns are named 'a'"),
        ("a;b,c\n1,x,2\n", {}, "FILE, line 1: ',' and ';' occur equally often"),
        ('a,b\n1,"x\n2,y\n', {}, "FILE: the first row: a quote \" that isn't closed"),
        ('a,b\n1,x\n2,"y\n', {}, "FILE: the row after line 2: a quote"),
        (b"a,b\n1,x\n2,caf\xe9\n", {}, "FILE, line 3: not utf-8 text"),
        (b"a,caf\xe9\n1,x\n", {}, "FILE, line 1: not utf-8 text"),
        (b"a,b\n1,x\n2,\x81\n", {"encoding": "cp1252"}, "FILE, line 3: not cp1252 text"),
        ("a,b\n1,x\n", {"columns": ["c"]}, "FILE: has no column 'c'; it has a, b"),
        ("x" * (17 << 20), {}, "FILE, line 1 is longer than 16 MiB"),
        ('a,b\n1,"' + "x\n" * (10 << 20), {}, "FILE: a row is longer than 2 MiB"),
    ],
)
def test_csv_that_is_refused(tmp_path, content, how, expected):
    assert refusal(write(str(tmp_path), "log.csv", content), **how).startswith(expected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("format", "xml"),
        ("delimiter", ""),
        ("delimiter", "\n"),
        ("delimiter", '"'),
        ("quote", "''"),
        ("quote", "«"),
        ("encoding", "utf-9"),
        ("encoding", "hex"),
        ("names", ()),
        ("names", ("a", "a")),
    ],
)
def test_settings_that_no_file_can_be_read_with(setting, value):
    with pytest.raises(ConfigError, match=f"^{setting}="):
        FileFormat(**{setting: value})


def test_a_file_without_a_line_has_no_rows(tmp_path):
    uri = write(str(tmp_path), "log.csv", "")
    how = FileFormat()
    [file] = find_files(uri, how)
    assert file_columns(file, how) is None
    assert rows(uri, ["a"]) == []


def test_a_wrong_line_far_down_is_found_fast_and_in_pieces(tmp_path):
    count = 3 * PIECE_ROWS
    text = "a,b\n" + "".join(f"{row},x\n" for row in range(count))
    uri = write(str(tmp_path), "log.csv", text)
    pieces = [len(table) for _, table in tables(uri)]
    assert sum(pieces) == count
    assert max(pieces) <= PIECE_ROWS
    assert refusal(write(str(tmp_path), "log.csv", text + "1\n")).startswith(
        f"FILE, line {count + 2}: 1 cell"
    )


_PEAK = """
import resource, sys
from clickprompt.data.sources.reading import FileFormat, file_parts, find_files, read_rows
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
how, before = FileFormat(), peak()
parts = (part for file in find_files(sys.argv[1], how) for part in file_parts(file, how))
rows = sum(len(table) for part in parts for table in read_rows(part, ["b"], how))
print(rows, peak() - before)
"""


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
    """pyarrow reads blocks of CSV ahead, 32 of them."""
    row = {
        "csv": "1," + "x" * 100_000 + "\n",
        "jsonl": '{"b": "' + "x" * 100_000 + '"}\n',
        "json": '{"b": "' + "x" * 100_000 + '"},',
    }[ending]
    uri, count = str(tmp_path / f"log.{ending}"), 3000  # 300 MB
    with open(uri, "w") as stream:
        stream.write({"csv": "a,b\n", "jsonl": "", "json": "["}[ending])
        for _ in range(count):
            stream.write(row)
        stream.write('{"b": null}]' if ending == "json" else "")
    found = subprocess.run(
        [sys.executable, "-c", _PEAK, uri], check=True, capture_output=True, text=True
    ).stdout
    rows, grown = map(int, found.split())
    assert rows == count + (ending == "json")
    assert grown < 200


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("log.csv", 'a,b\n1,"x\ny"\n\n2,z\n', [2, 5]),
        ("log.csv", 'a,b\n"1"x,y\n2,z\n', [2, 3]),
        ("log.jsonl", '{"a":1}\n\n\n{"a":2}\n', [1, 4]),
    ],
)
def test_a_row_knows_its_line(tmp_path, name, content, lines):
    """Also below empty lines and lines within quotes."""
    uri = write(str(tmp_path), name, content)
    [(part, _)] = tables(uri, ["a"])
    assert [part.place(row) for row in range(2)] == [f"{uri}, line {line}" for line in lines]


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zstd), ("bz2", bz2.compress)])
@pytest.mark.parametrize("text_format", ["csv", "jsonl"])
def test_a_damaged_compressed_file_is_named(tmp_path, ending, pack, text_format):
    noise = np.random.default_rng(0).integers(0, 1 << 60, 20_000)
    lines = (
        [f"{one},x" for one in noise]
        if text_format == "csv"
        else [json.dumps({"a": int(one)}) for one in noise]
    )
    content = pack("\n".join(["a,b", *lines] if text_format == "csv" else lines).encode())
    for damaged in (
        content[: len(content) // 2],
        content[:50_000] + b"\0" * 100 + content[50_100:],
        b"no " + content,
    ):
        message = refusal(write(str(tmp_path), f"log.{text_format}.{ending}", damaged), ["a"])
        assert message.startswith("FILE: a damaged or truncated ")


# JSON

JSON_ROWS = [
    ('{"a": 1, "b": "x"}', ("1", "x", None)),
    ('{"b": 2.0, "c": {"d": true}}', (None, "2", "true")),
    ('{"a": NaN, "b": 0.50, "c": 7}', (None, "0.5", None)),
    (
        '{"a": 12345678901234567890123, "b": 9007199254740993.0, "c": {"d": null}}',
        ("12345678901234567890123", "9007199254740993", None),
    ),
    ('{"a": 1, "a": -0.0, "b": 1e2, "c.d": "own"}', ("0", "100", "own")),
]


@pytest.mark.parametrize("form", ["lines", "array", "wide array", "packed"])
def test_json_values_are_text_as_they_compare(place, form):
    texts = [text for text, _ in JSON_ROWS]
    if form in ("lines", "packed"):
        content, name = "\n\n".join(texts).encode(), "log.jsonl"
    else:
        separator = ",\n" if form == "array" else " \r\n\t,\n\n"
        content, name = f"\ufeff [{separator.join(texts)}]\n".encode(), "log.json"
    uri = write(
        place,
        f"{name}.gz" if form == "packed" else name,
        gzip.compress(content) if form == "packed" else content,
    )
    assert values(uri, ["a", "b", "c.d"]) == [expected for _, expected in JSON_ROWS]


def test_json_lists(tmp_path):
    uri = write(str(tmp_path), "log.jsonl", '{"a": [1, "x", null, 2.0, NaN]}\n{"a": "y"}\n{"a": []}\n{}\n')
    [(_, table)] = tables(uri, ["a"])
    assert table.schema.field("a").type == pa.list_(pa.string())
    assert table.column("a").to_pylist() == [["1", "x", None, "2", None], ["y"], [], None]


def test_json_long_arrays_are_read_in_pieces(tmp_path):
    count = PIECE_ROWS + 5
    uri = write(
        str(tmp_path),
        "log.json",
        json.dumps([{"a": row, "b": "ü" * (row % 9)} for row in range(count)], ensure_ascii=False),
    )
    found = list(tables(uri, ["a", "b"]))
    assert [len(table) for _, table in found] == [PIECE_ROWS, 5]
    assert [row for _, table in found for row in table.column("a").to_pylist()] == [
        str(row) for row in range(count)
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}\n\n{"a": "\\ud800"}\n', "FILE, line 3: a: '\\ud800' holds half a surrogate pair"),
        ('{"a": "x"}\n{"a": "\\ud800"}\n', "FILE, line 2: a: '\\ud800' holds half a surrogate pair"),
        ('{"a": 1}\n{"a": ["\\udc00x"]}\n', "FILE, line 2: a: '\\udc00x' holds half a surrogate pair"),
        ('{"a": 1}\n{"a": {"b": 1}}\n', "FILE, line 2: a: \"{'b': 1}\" is nested"),
        ('{"a": 1}\n{"a": [[1]]}\n', "FILE, line 2: a: '[1]' is nested"),
        ('{"a": 1}\n{"a": Infinity}\n', "FILE, line 2: not JSON (Infinity"),
        ('{"a": 1}\n{"a": 1e999}\n', "FILE, line 2: not JSON (1e999 is too large"),
        ('{"a": ' + "1" * 5000 + "}\n", "FILE, line 1: not JSON (Exceeds the limit"),
        ('{"a": ' + "[" * 100_000 + "\n", "FILE, line 1: not JSON (maximum recursion"),
        ('{"a": 1}\n{"a": 1\n', "FILE, line 2: not JSON"),
        ('{"a": 1}\n{"a": 1}{"a": 2}\n', "FILE, line 2: text follows the object"),
        ('{"a": 1}\n[1]\n', "FILE, line 2: '[1]' is not a JSON object"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', "FILE, line 2: not UTF-8 text"),
        ('[{"a": 1},\n{"a": "\\ud800"}]', "FILE, item 2: a: '\\ud800' holds half a surrogate pair"),
        ('[{"a": 1},\n{"a": 1}', "FILE, item 2 is the last, and the array isn't closed"),
        ('[{"a": 1},\n', "FILE, item 2: not JSON"),
        ('[{"a": 1},]', "FILE, item 2: not JSON"),
        ('[{"a": 1} {"a": 2}]', "FILE, item 1 is followed by '{'"),
        ('[{"a": 1}, 5]', "FILE, item 2: '5' is not a JSON object"),
        ('[{"a": 1}] {"a": 2}', "FILE: text follows the array"),
        ('[{"a": Infinity}]', "FILE, item 1: not JSON (Infinity"),
        (b'[{"a": 1},\n{"a": "caf\xe9"}]', "FILE, line 2: not utf-8 text"),
    ],
)
def test_json_that_is_refused(tmp_path, content, expected):
    assert refusal(write(str(tmp_path), "log.json", content), ["a"]).startswith(expected)


def test_an_array_in_a_file_of_lines_is_refused(tmp_path):
    uri = write(str(tmp_path), "log.jsonl", '[{"a": 1}]')
    assert values(uri, ["a"]) == [("1",)]
    assert "line 1" in refusal(uri, ["a"], format="jsonl")


# Parquet

ZONED = datetime(2024, 5, 1, 12, tzinfo=UTC)
COLUMNS = {
    "int64": (pa.array([2**53 + 1, None]), pa.int64()),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), pa.uint64()),
    "bool": (pa.array([True, None]), pa.bool_()),
    "float32": (pa.array([1.5, None], pa.float32()), pa.float32()),
    "decimal": (pa.array([Decimal("3.00"), None]), pa.decimal128(3, 2)),
    "date": (pa.array([date(2024, 5, 1), None]), pa.date32()),
    "ns": (pa.array([1714557600_123456789, None], pa.timestamp("ns")), pa.timestamp("ns")),
    "zoned": (
        pa.array([ZONED, None], pa.timestamp("ms", "Europe/Berlin")),
        pa.timestamp("ms", "Europe/Berlin"),
    ),
    "text": (pa.array(["ü", None]), pa.string()),
    "large text": (pa.array(["ü", None], pa.large_string()), pa.string()),
    "text view": (pa.array(["ü" * 20, None], pa.string_view()), pa.string()),
    "bytes": (pa.array(["ü".encode(), None], pa.binary()), pa.string()),
    "dictionary": (pa.array(["ü", None]).dictionary_encode(), pa.string()),
    "int dictionary": (pa.array([7, None]).dictionary_encode(), pa.int64()),
    "list": (pa.array([["a", None], None]), pa.list_(pa.string())),
    "large list": (pa.array([["a"], None], pa.large_list(pa.large_string())), pa.list_(pa.string())),
    "list view": (pa.array([["a"], None], pa.list_view(pa.string())), pa.list_(pa.string())),
    "fixed list": (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), pa.list_(pa.int32())),
    "dictionary list": (
        pa.array([["a", "a"], []], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.list_(pa.string()),
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_parquet_columns_keep_their_types(tmp_path, name):
    column, expected = COLUMNS[name]
    uri, how = str(tmp_path / "log.PQ"), FileFormat()
    pq.write_table(pa.table({name: column}), uri)
    [file] = find_files(uri, how)
    assert file_columns(file, how) == {name: expected}
    [(_, table)] = tables(uri)
    assert table.schema.field(name).type == expected
    wanted = column.cast(expected) if name != "list view" else column
    assert table.column(name).to_pylist() == wanted.to_pylist()


def test_int96_is_a_timestamp(tmp_path):
    uri = str(tmp_path / "log.parquet")
    at = pa.array([datetime(2024, 5, 1, 12, 30)], pa.timestamp("us"))
    pq.write_table(pa.table({"at": at}), uri, use_deprecated_int96_timestamps=True)
    [(_, table)] = tables(uri)
    assert table.column("at").to_pylist()[0] == datetime(2024, 5, 1, 12, 30)
    assert table.schema.field("at").type == pa.timestamp("ns")


def test_uuids_are_text(tmp_path):
    uri, one = str(tmp_path / "log.parquet"), uuid.uuid4()
    pq.write_table(pa.table({"id": pa.array([one.bytes, None], pa.uuid())}), uri)
    assert values(uri) == [(str(one),), (None,)]


def test_children_of_structs_are_columns(tmp_path):
    uri, how = str(tmp_path / "log.parquet"), FileFormat()
    user = pa.array([{"id": 1, "home": {"city": "Köln"}}, None, {"id": None, "home": None}])
    pq.write_table(pa.table({"user": user, "user.id": ["own", "own", "own"], "x": [1, 2, 3]}), uri)
    [file] = find_files(uri, how)
    assert file_columns(file, how) == {"user.id": pa.string(), "x": pa.int64(), "user.home.city": pa.string()}
    assert values(uri, ["user.home.city", "user.id", "x"]) == [
        ("Köln", "own", 1),
        (None, "own", 2),
        (None, "own", 3),
    ]
    pq.write_table(pa.table({"user": user}), uri)
    assert values(uri, ["user.id"]) == [(1,), (None,), (None,)]


def test_parquet_is_cut_at_row_groups_and_read_in_pieces(tmp_path, monkeypatch):
    uri, how = str(tmp_path / "log.parquet"), FileFormat()
    count = PIECE_ROWS + 100
    pq.write_table(
        pa.table({"x": np.arange(3 * count), "y": np.arange(3 * count) % 7}), uri, row_group_size=count
    )
    monkeypatch.setattr("clickprompt.data.sources.parquet_files._PART_BYTES", 1)
    [file] = find_files(uri, how)
    parts = file_parts(file, how)
    assert [part.first_row for part in parts] == [0, count, 2 * count]
    assert parts[1].place(5) == f"{uri}, row {count + 6}"
    found = [
        table for part in pickle.loads(pickle.dumps(parts)) for table in read_rows(part, ["y", "x"], how)
    ]
    assert [len(table) for table in found] == [PIECE_ROWS, 100] * 3
    assert pa.concat_tables(found).column("x").to_pylist() == list(range(3 * count))


def test_parquet_pieces_of_long_rows_are_short(tmp_path):
    uri = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"x": [f"{row:0100000}" for row in range(1500)]}), uri, use_dictionary=False)
    lengths = [len(table) for _, table in tables(uri)]
    assert sum(lengths) == 1500
    assert max(lengths) < 700


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.list_(pa.string())], ids=str
)
def test_text_that_is_not_utf8_is_named_with_its_row(tmp_path, kind):
    uri = str(tmp_path / "log.parquet")
    content = [b"fine"] * 1000 + [b"caf\xe9", b"fine", b"\xff"]
    texts = pa.array(content, pa.binary())
    if pa.types.is_list(kind):
        column = pa.ListArray.from_arrays(
            pa.array(range(len(content) + 1), pa.int32()), texts.view(pa.string())
        )
    else:
        column = texts.cast(pa.large_binary()).view(kind) if kind == pa.large_string() else texts.view(kind)
    pq.write_table(pa.table({"x": column}), uri)
    assert refusal(uri) == "FILE, row 1001: column x is not UTF-8 text; mend the row"


@pytest.mark.parametrize("damage", ["cut", "page", "empty"])
def test_damaged_parquet_is_named(tmp_path, damage):
    uri = str(tmp_path / "log.parquet")
    pq.write_table(
        pa.table({"x": np.random.default_rng(0).random(10_000)}),
        uri,
        row_group_size=5000,
        write_page_checksum=True,
    )
    with open(uri, "rb") as stream:
        content = stream.read()
    damaged = {
        "cut": content[: len(content) // 2],
        "page": content[:100] + b"\1" * 2000 + content[2100:],
        "empty": b"",
    }[damage]
    message = refusal(write(str(tmp_path), "log.parquet", damaged))
    assert message.startswith(
        "FILE, row group 1 of 2: a damaged"
        if damage == "page"
        else "FILE: a damaged or truncated Parquet file"
    )


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    uri = str(tmp_path / "log.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), uri)
    assert refusal(uri).startswith("FILE: has two columns 'x'")
    pq.write_table(pa.table({"x": [1]}), uri)
    assert refusal(uri, ["y"]) == "FILE: has no column 'y'; it has x"


# All formats


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_partitions_are_columns_but_not_before_the_files_own(place, ending):
    content = {"csv": b"a,b\n1,x\n2,y\n", "jsonl": b'{"a":"1","b":"x"}\n{"a":"2","b":"y"}\n'}
    if ending == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"a": ["1", "2"], "b": ["x", "y"]}), sink)
        content["parquet"] = sink.getvalue().to_pybytes()
    name = f"dt=2024-05-01/a=7/h=a%2Fb%20c/p=__HIVE_DEFAULT_PARTITION__/log.{ending}"
    uri = write(place, name, content[ending])
    assert values(uri, ["dt", "a", "h", "p", "b"]) == [
        ("2024-05-01", one, "a/b c", None, b) for one, b in (("1", "x"), ("2", "y"))
    ]
    assert values(uri, ["dt"]) == [("2024-05-01",)] * 2
    [file] = find_files(uri, FileFormat())
    assert set(file_columns(file, FileFormat()) or "abhp") | {"dt"} == {"a", "b", "dt", "h", "p"}


def test_parts_are_cheap_to_send(tmp_path):
    how = FileFormat()
    for file in (
        DataFile(str(tmp_path / "log.csv"), 1, (("dt", "1"),)),
        DataFile(str(tmp_path / "log.jsonl"), 1),
    ):
        [part] = file_parts(file, how)
        assert pickle.loads(pickle.dumps(part)) == part
        assert len(pickle.dumps(part)) < 1000

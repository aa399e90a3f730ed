"""Any table, written as Parquet, CSV or JSON in any dialect, is read as it was; any damaged file is one clear
line, or rows.
"""

import csv
import io
import json
import math
import tempfile
from datetime import datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clickprompt.data.sources.formats import NULLS
from clickprompt.data.sources.parquet_files import plain_type
from clickprompt.data.sources.reading import FileFormat, file_columns, file_parts, find_files, read_rows
from clickprompt.errors import InputError
from tests.support.reading import rows, tables, values, write

ANY = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.lists(
    st.text("abcdeü_ 7", min_size=1, max_size=6).map(str.strip).filter(bool),
    min_size=1,
    max_size=5,
    unique=True,
)
cells = st.one_of(
    texts,
    st.sampled_from(
        [
            *NULLS,
            " ",
            " NA ",
            "\xa0",
            "NA\u3000",
            "x, y",
            'say "x"',
            "a;b|c\td",
            "1::2",
            "two\nlines",
            "two\r\nlines",
        ]
    ),
)


# CSV


@st.composite
def csv_tables(draw):
    """(columns, rows, how they are written, how they are to be read)"""
    columns = draw(names)
    delimiter = draw(st.sampled_from([",", ";", "\t", "|", "::", "§", "\x01"]))
    quote = draw(st.sampled_from(['"', "'"]))
    table = draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), max_size=6))
    if len(delimiter.encode()) > 1:
        table = [[cell.replace("\x1f", "") for cell in row] for row in table]
    how = {"quote": quote, "delimiter": delimiter}
    if draw(st.booleans()):
        how["names"] = tuple(columns)
    how["encoding"] = draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
    return columns, table, draw(st.sampled_from(["\n", "\r\n"])), how


def written(columns, table, end, how):
    stand_in = how["delimiter"] if len(how["delimiter"]) == 1 else "\x1f"
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=stand_in, quotechar=how["quote"], lineterminator=end, quoting=csv.QUOTE_ALL
    )
    writer.writerows(table if "names" in how else [columns, *table])
    return text.getvalue().replace(stand_in, how["delimiter"]).encode(how["encoding"])


@ANY
@given(csv_tables())
def test_any_csv(made):
    columns, table, end, how = made
    with tempfile.TemporaryDirectory() as folder:
        uri = write(folder, "log.csv", written(columns, table, end, how))
        assert values(uri, columns, **how) == [
            tuple(None if cell.strip() in NULLS else cell for cell in row) for row in table
        ]


# JSON


whole = st.integers(-(10**30), 10**30)
numbers = st.floats(allow_infinity=False)
single = st.one_of(st.none(), texts, whole, numbers, st.booleans())
objects = st.dictionaries(st.sampled_from(["b", "c"]), single, max_size=2)
json_values = st.one_of(
    single, st.lists(single, max_size=3), objects, st.lists(st.one_of(objects, st.none()), max_size=3)
)


def as_text(value):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return (
            None
            if math.isnan(value)
            else str(int(Decimal(repr(value))))
            if value.is_integer()
            else repr(value)
        )  # as it is written
    return str(value)


def leaf(row, path):
    """Of a list of objects, the list of what they have there."""
    if not path:
        return row
    if isinstance(row, list) and all(one is None or isinstance(one, dict) for one in row):
        return [leaf(one, path) for one in row]
    return leaf(row.get(path[0]), path[1:]) if isinstance(row, dict) else None


def is_nested(value):
    return isinstance(value, dict) or (isinstance(value, list) and any(map(is_nested, value)))


@ANY
@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "x", "y"]), json_values, max_size=3), max_size=6),
    st.sampled_from(["lines", "array", "indented"]),
    st.booleans(),
)
@example([{"a": 2.0**60}, {"a": 5}], "lines", True)
def test_any_json(table, form, ascii_only):
    columns = [
        name
        for name, path in {"a": ["a"], "a.b": ["a", "b"], "x": ["x"], "y.c": ["y", "c"]}.items()
        if not any(is_nested(leaf(row, path)) for row in table)
    ]
    if form == "lines":
        content = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in table)
    else:
        content = json.dumps(table, ensure_ascii=ascii_only, indent=3 if form == "indented" else None)
    with tempfile.TemporaryDirectory() as folder:
        found = rows(write(folder, "log.json", content), columns) if columns else []
    for name in columns:
        leaves = [leaf(row, name.split(".")) for row in table]
        expected = [
            [as_text(item) for item in value] if isinstance(value, list) else as_text(value)
            for value in leaves
        ]
        if any(isinstance(value, list) for value in leaves):
            expected = [[value] if isinstance(value, str) else value for value in expected]
        assert [row[name] for row in found] == expected


# Parquet

ordinary = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.bool_(): st.booleans(),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): texts,
    pa.large_string(): texts,
    pa.string_view(): texts,
    pa.decimal128(20, 3): st.integers(-(10**19), 10**19).map(lambda number: Decimal(number).scaleb(-3)),
    pa.date32(): st.dates(),
    pa.timestamp("ms"): st.datetimes().map(lambda at: at - timedelta(microseconds=at.microsecond % 1000)),
    pa.timestamp("us"): st.datetimes(),
    pa.timestamp("ns"): st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    pa.dictionary(pa.int32(), pa.string()): texts,
}
parquet_types = st.sampled_from(list(ordinary)).flatmap(
    lambda kind: (
        st.sampled_from(
            [kind, pa.list_(kind), pa.large_list(kind), pa.list_(kind, 2), pa.struct([("in", kind)])]
        )
        if kind != pa.string_view()  # pyarrow writes no nested ones
        else st.just(kind)
    )
)


def of_type(kind):
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({"in": st.none() | of_type(kind.field(0).type)})
    if pa.types.is_fixed_size_list(kind):
        return st.lists(of_type(kind.value_type), min_size=2, max_size=2)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return st.lists(st.none() | of_type(kind.value_type), max_size=3)
    return ordinary[kind]


@st.composite
def parquet_tables(draw):
    kinds = {name.replace(".", ""): draw(parquet_types) for name in draw(names)}
    count = draw(st.integers(0, 7))
    columns = {
        name: pa.array(draw(st.lists(st.none() | of_type(kind), min_size=count, max_size=count)), kind)
        for name, kind in kinds.items()
    }
    return pa.table(columns)


@ANY
@given(parquet_tables(), st.integers(1, 4))
def test_any_parquet(table, group):
    how = FileFormat()
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/log.parquet"
        pq.write_table(table, uri, row_group_size=group)
        [file] = find_files(uri, how)
        types = file_columns(file, how)
        assert types is not None
        read = [found for _, found in tables(uri)]
    expected = {}
    for name in table.column_names:
        column, kind = table.column(name).to_pylist(), table.schema.field(name).type
        if pa.types.is_struct(kind):
            expected[f"{name}.in"] = [value and value["in"] for value in column], kind.field(0).type
        else:
            expected[name] = column, kind
    assert types == {name: plain_type(kind) for name, (_, kind) in expected.items()}
    for name, (column, kind) in expected.items():
        assert all(found.schema.field(name).type == plain_type(kind) for found in read)
        assert [value for found in read for value in found.column(name).to_pylist()] == column


# Any bytes

seeds = st.sampled_from(
    [
        b'a,b\n1,"x"\n2,\n',
        b'{"a": 1, "b": "x"}\n{"a": [1.5, null], "c": {"d": true}}\n',
        b'[{"a": 1, "b": "x"},\n {"a": "\\ud83d\\ude00"}]',
    ]
)


@settings(ANY, max_examples=400)
@given(
    st.one_of(st.binary(max_size=60), seeds),
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.integers(0, 3),
            st.sampled_from([b"", b'"', b"\n", b"\r", b",", b"\\", b"{", b"]", b"\xff", b"\0", b"1e999"]),
        )
    ),
    st.sampled_from([".csv", ".json", ".jsonl", ".parquet", ".csv.gz", ".jsonl.zst", ".json.bz2"]),
    st.sampled_from(
        [{}, {"quote": None}, {"delimiter": "::"}, {"encoding": "utf-16"}, {"names": ("a", "b")}]
    ),
)
def test_any_damage_is_one_line_or_rows(content, changes, ending, how):
    for at, length, put in changes:
        content = content[:at] + put + content[at + length :]
    with tempfile.TemporaryDirectory() as folder:
        uri = write(folder, f"log{ending}", content)
        given_format = FileFormat(**how)
        try:
            for file in find_files(uri, given_format):
                columns = file_columns(file, given_format)
                for part in file_parts(file, given_format):
                    for table in read_rows(part, list(columns or ["a", "c.d"]), given_format):
                        table.validate(full=True)
                        part.place(len(table) - 1)
        except InputError as error:
            message = str(error)
            assert message.startswith(uri)
            assert len(message.splitlines()) == 1

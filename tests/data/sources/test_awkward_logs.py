"""Ordinary logs that are easily read wrongly: each gives the right rows, or one line that says what is wrong
where.
"""

import json
import math
import os
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.data.sources.raw import Findings, table_key
from clickprompt.data.sources.registry import get_source
from clickprompt.data.sources.schema import Explode
from clickprompt.data.transform.explode import exploded
from clickprompt.data.transform.values import BadValue
from clickprompt.errors import InputError

FIELDS = [{"name": "A", "column": "a"}, {"name": "B", "column": "b"}]
LABEL = {"column": "y"}
MAY = 1_714_557_600  # 2024-05-01 10:00 UTC


def rows_of(folder, files, **schema):
    """Label, µs and values of all rows; `files`: name → table, or text."""
    for name, content in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(content, dict | pa.Table):
            table = content if isinstance(content, pa.Table) else pa.table(content)
            pq.write_table(table, path, use_deprecated_int96_timestamps="int96" in name)
        else:
            with open(path, "wb") as stream:
                stream.write(content if isinstance(content, bytes) else content.encode())
    path = os.path.join(folder, "schema.yaml")
    described = {"data": list(files), "fields": FIELDS, "label": LABEL} | schema
    with open(path, "w") as stream:
        yaml.safe_dump(described, stream, sort_keys=False, allow_unicode=True)
    source = get_source(path, None)
    source.raw_files()
    findings, labels, times, values = Findings(), [], [], {}
    for part in source.parts():
        for rows in source.read_part(part):
            findings.merge(rows.findings)
            labels += rows.label.to_pylist()
            times += rows.timestamp.to_pylist()
            for name, column in rows.values.items():
                values.setdefault(name, []).extend(column.to_pylist())
    source.check_findings(findings)
    return labels, times, values, findings, source


def columns(n=3, **more):
    return {"a": ["x"] * n, "b": ["y"] * n, "y": [1, 0, 1][:n]} | more


NAN = math.nan


@pytest.mark.parametrize(
    ("written", "rule", "meant"),
    [
        (pa.array([4.0, NAN, 2.0]), {"positive_from": 4}, [1, None, 0]),
        (pa.array([4.0, None, 2.0]), {"positive_from": 4, "missing": "negative"}, [1, 0, 0]),
        (pa.array([1.0, 0.0, NAN]), {}, [1, 0, None]),
        (pa.array([True, False, None]), {}, [1, 0, None]),
        (pa.array([Decimal("1.0"), Decimal("0.0"), None]), {}, [1, 0, None]),
        (
            pa.array([Decimal("3.0"), Decimal("4.0"), Decimal("5.5")]),
            {"positive_from": 4, "drop": [3]},
            [None, 1, 1],
        ),
        (pa.array(["3.0", "4.0", "1"]), {"positive_from": 4, "drop": [3]}, [None, 1, 0]),
        (pa.array([3, 4, 1]), {"positive_from": 4, "drop": ["3.0"]}, [None, 1, 0]),
        (pa.array(["TRUE", "FALSE", "true"]), {}, [1, 0, 1]),
        (pa.array(["1.0", "0.0", "1"]), {}, [1, 0, 1]),
        (pa.array(["yes", "no", ""]), {"positive": ["yes"]}, [1, 0, None]),
        (pa.array(["5", "n/a", "2"]), {"positive_from": 4, "drop": ["n/a"]}, [1, None, 0]),
    ],
)
def test_labels(tmp_path, written, rule, meant):
    labels, _, _, findings, _ = rows_of(
        str(tmp_path), {"log.parquet": columns(y=written)}, label=LABEL | rule
    )
    assert labels == meant
    assert findings.counts.get("label_missing", 0) == sum(
        value in (None, "") or value != value for value in written.to_pylist()
    )


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("yes", 1),
        ("no", 0),
        ("NULL", None),
        ("\\N", None),
        ("NA", None),
        ("None", None),
        ("nan", None),
        ("", None),
    ],
)
def test_markers_of_a_csv_are_missing_as_label_and_as_value(tmp_path, cell, meant):
    labels, _, values, _, _ = rows_of(
        str(tmp_path), {"log.csv": f'a,b,y\nx,"{cell}",{cell}\n'}, label=LABEL | {"positive": ["yes"]}
    )
    assert labels == [meant]
    assert values["B"] == [cell if meant is not None else None]


@pytest.mark.parametrize(
    ("written", "field", "meant"),
    [
        (pa.array([NAN, 1.0, None]), {"kind": "numeric", "edges": [0]}, [None, "0 or more", None]),
        (pa.array([NAN, 1.25, None]), {"kind": "numeric", "round": 1}, [None, "1.2", None]),
        (pa.array([NAN, 7.0, 7.5]), {}, [None, "7", "7.5"]),
        (pa.array(["007", "7", " 7 "]), {}, ["007", "7", "7"]),
        (pa.array([2**53 + 1, 7, None]), {}, ["9007199254740993", "7", None]),
        (pa.array([2**63 + 5, 7, None], pa.uint64()), {}, ["9223372036854775813", "7", None]),
        (pa.array([[1.0, NAN], [NAN], None]), {"kind": "multi", "take": "all"}, ["1", None, None]),
        (
            pa.array([["a", None], [], ["b", "c"]], pa.large_list(pa.string())),
            {"kind": "multi", "take": "all"},
            ["a", None, "b, c"],
        ),
        (pa.array([["a", "b"]] * 3, pa.list_(pa.string(), 2)), {"kind": "multi"}, ["a"] * 3),
        (pa.array(["a|b", "", "c"]), {"kind": "multi", "separator": "|", "take": "all"}, ["a, b", None, "c"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), {}, ["a", "b", "a"]),
        (pa.array([date(2024, 5, 1)] * 3), {}, ["2024-05-01"] * 3),
        (pa.array([Decimal("3.50"), Decimal("3.00"), None]), {}, ["3.5", "3", None]),
        (pa.array([None] * 3, pa.null()), {}, [None] * 3),
    ],
)
def test_values(tmp_path, written, field, meant):
    fields = [FIELDS[0], FIELDS[1] | field]
    _, _, values, _, _ = rows_of(str(tmp_path), {"log.parquet": columns(b=written)}, fields=fields)
    assert values["B"] == meant


@pytest.mark.parametrize(
    "written",
    [
        pa.array([MAY] * 2),
        pa.array([MAY * 1000] * 2),
        pa.array([MAY * 1000.0] * 2),
        pa.array([MAY * 10**9] * 2),
        pa.array([Decimal(MAY)] * 2),
        pa.array([datetime(2024, 5, 1, 10)] * 2, pa.timestamp("ns")),
        pa.array([datetime(2024, 5, 1, 10)] * 2, pa.timestamp("s")),
        pa.array([datetime(2024, 5, 1, 10, tzinfo=UTC)] * 2, pa.timestamp("ms", "Europe/Berlin")),
        pa.array(["2024-05-01T10:00:00Z", "2024-05-01T12:00:00+02:00"]),
        pa.array(["2024-05-01 10:00:00 UTC"] * 2),
        pa.array(["2024-05-01 10:00"] * 2),
        pa.array([str(MAY)] * 2),
        pa.array([f"{MAY}.0"] * 2),
    ],
)
def test_times(tmp_path, written):
    _, times, _, _, _ = rows_of(str(tmp_path), {"log.parquet": columns(2, t=written)}, timestamp="t")
    assert times == [MAY * 1_000_000] * 2


def test_times_with_fractions_and_of_int96_and_dates(tmp_path):
    _, times, _, _, _ = rows_of(
        str(tmp_path / "1"), {"log.csv": f"a,b,y,t\nx,y,1,{MAY}.25\nx,y,0,{MAY}\n"}, timestamp="t"
    )
    assert times == [MAY * 1_000_000 + 250_000, MAY * 1_000_000]
    stamps = pa.array([datetime(2024, 5, 1, 10)] * 2, pa.timestamp("ns"))
    _, times, _, _, _ = rows_of(str(tmp_path / "2"), {"int96.parquet": columns(2, t=stamps)}, timestamp="t")
    assert times == [MAY * 1_000_000] * 2
    _, times, _, _, _ = rows_of(
        str(tmp_path / "3"), {"log.parquet": columns(1, t=pa.array([date(1970, 1, 3)]))}, timestamp="t"
    )
    assert times == [2 * 86_400_000_000]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_places_are_looked_for_only_when_something_is_wrong(tmp_path, monkeypatch, name):
    """In such files that means reading them from the beginning, for every piece of them."""
    lines = {
        "log.csv": "a,b,y,t\nx,y,1,1\nx,y,0,2\n",
        "log.jsonl": '{"a": 1, "b": 1, "y": 1, "t": "2024-05-01"}\n',
    }

    def place(*_):
        raise AssertionError("looked for")

    monkeypatch.setattr("clickprompt.data.sources.csv_files.CsvRows.place", place)
    monkeypatch.setattr("clickprompt.data.sources.json_files.JsonRows.place", place)
    *_, findings, _ = rows_of(str(tmp_path), {name: lines[name]}, timestamp="t")
    assert len(findings.times) == 1
    with pytest.raises(AssertionError, match="looked for"):
        str(*findings.times.values())


LINE = "x,y,1,{}\n"
PARQUET = pa.table(columns(2, t=pa.array([MAY] * 2)))


@pytest.mark.parametrize(
    ("files", "schema", "said"),
    [
        (
            {"1.csv": "a,b,y,t\n" + LINE.format(MAY), "2.csv": "a,b,y,t\n" + LINE.format(MAY * 1000)},
            {"timestamp": "t"},
            r"1\.csv, line 2: t=1714557600 \(seconds\) stands beside .*2\.csv, line 2: "
            r"t=1714557600000 \(milliseconds\)",
        ),
        (
            {"1.parquet": PARQUET, "2.csv": "a,b,y,t\n" + LINE.format("2024-05-01")},
            {"timestamp": "t"},
            r"\(seconds\) stands beside .*2\.csv, line 2: t=2024-05-01 \(date or time without zone\)",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format("2024-05-01") + LINE.format(MAY)},
            {"timestamp": "t"},
            r"line 3: t='1714557600' \(seconds\) stands beside 2024-05-01",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format("2024-05-01T10:00:00Z") + LINE.format("2024-05-01T10:00:00")},
            {"timestamp": "t"},
            r"line 3: .*\(date or time without zone\) stands beside .*one unit and zone",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format("2024-05-01") + LINE.format("")},
            {"timestamp": "t"},
            r"line 3: t=None is no time",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format("2024-13-01")},
            {"timestamp": "t"},
            r"line 2: t='2024-13-01' is not a date of the calendar",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format(7), "2.csv": "a,b,y,t\n" + LINE.format(MAY * 1000)},
            {"timestamp": "t"},
            r"1\.csv, line 2: t=7 is so near 0 that it could be of any unit; give timestamp\.unit",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format("soon")},
            {"timestamp": "t"},
            r"line 2: t='soon' is neither a number nor a date",
        ),
        (
            {"1.csv": "a,b,y,t\n" + LINE.format("2024-05-01")},
            {"timestamp": {"column": "t", "unit": "ms"}},
            r"line 2: t='2024-05-01' is not a number of unit: ms",
        ),
        (
            {
                "1.parquet": columns(a=pa.array([2**53 + 1, 1, 2])),
                "2.parquet": columns(a=pa.array([9007199254740992.0, 1, 2])),
            },
            {},
            r"a is whole numbers in .*1\.parquet and floats in .*2\.parquet.*type: integer",
        ),
        ({"1.parquet": columns(a=pa.array([1e17, 1, 2]))}, {}, r"row 1: a=1e\+17 is a float.*exactly"),
        (
            {"1.parquet": columns(a=pa.array([1.5, 1, 2]))},
            {"fields": [FIELDS[0] | {"type": "integer"}, FIELDS[1]]},
            r"row 1: a=1\.5 is not a whole number",
        ),
        (
            {"1.parquet": columns(a=[["x"]] * 3)},
            {},
            r"row 1: a=.* is a list; set kind: multi for the field A",
        ),
        (
            {"1.csv": "a,b,y\nx,p|q,1\n"},
            {"fields": [FIELDS[0], FIELDS[1] | {"kind": "multi"}]},
            r"line 2: b='p\|q' .*separator",
        ),
        ({"1.csv": "a,b,y\nx,y,2\n"}, {}, r"line 2: y='2' is neither 0 nor 1"),
        (
            {"1.csv": "a,b,y\nx,y,good\n"},
            {"label": LABEL | {"positive_from": 3}},
            r"line 2: y='good' is not a number",
        ),
        ({"1.jsonl": '{"a": "x", "b": "\\ud800", "y": 1}\n'}, {}, r"1\.jsonl, line 1"),
        (
            {"1.csv": "a,b,y\nx,Q,1\n"},
            {"fields": [FIELDS[0], FIELDS[1] | {"values": {"F": "f"}}]},
            r"line 2: b='Q' is none of the codes",
        ),
        (
            {"1.csv": "a,b,y\nx,i1-1 i2,1\n"},
            {"explode": {"columns": ["b"], "separator": " ", "split": "-", "into": ["b", "y"]}},
            r"line 2: b='i2' has no '-'",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(tmp_path, files, schema, said):
    with pytest.raises(InputError, match=said) as caught:
        rows_of(str(tmp_path), files, **schema)
    assert "\n" not in str(caught.value)


def test_type_integer_takes_whole_numbers_however_they_are_stored(tmp_path):
    files = {
        "1.parquet": columns(a=pa.array([7, None, 9])),
        "2.parquet": columns(a=pa.array([7.0, NAN, 9.0])),
    }
    _, _, values, _, _ = rows_of(str(tmp_path), files, fields=[FIELDS[0] | {"type": "integer"}, FIELDS[1]])
    assert values["A"] == ["7", None, "9"] * 2


def test_impressions_of_a_row_become_rows(tmp_path):
    text = "u1\tN1-1 N2-0\nu2\t\nu3\tN3-0\n"
    explode = {"columns": ["shown"], "separator": " ", "split": "-", "into": ["news", "click"]}
    labels, _, values, _, source = rows_of(
        str(tmp_path),
        {"behaviors.tsv": text},
        names=["user", "shown"],
        explode=explode,
        fields=[{"name": "User", "column": "user"}, {"name": "News", "column": "news"}],
        label={"column": "click"},
        group="user",
    )
    assert (labels, values["User"], values["News"]) == ([1, 0, 0], ["u1", "u1", "u3"], ["N1", "N2", "N3"])
    groups = [group for rows in source.read_part(source.parts()[0]) for group in rows.group.to_pylist()]
    assert groups[0] == groups[1] != groups[2]


def test_lists_beside_each_other_become_rows(tmp_path):
    table = {"a": ["u", "v", "w"], "b": [["i", None], [], None], "y": [[1, 0], [], None]}
    labels, _, values, _, _ = rows_of(str(tmp_path), {"log.parquet": table}, explode={"columns": ["b", "y"]})
    assert (labels, values["A"], values["B"]) == ([1, 0], ["u", "u"], ["i", None])
    with pytest.raises(InputError, match=r"row 1: y=.* has 1 entries where b has 2"):
        rows_of(
            str(tmp_path / "2"),
            {"log.parquet": table | {"y": [[1], [], None]}},
            explode={"columns": ["b", "y"]},
        )


def test_keys_are_compared_as_numbers_and_missing_ones_have_no_values(tmp_path):
    files = {"log.csv": "a,b,y\n1,x,1\n2.0,x,0\n9,x,1\n007,x,0\n,x,1\n"}
    pq.write_table(
        pa.table({"id": [1.0, 2.0, 7.0], "name": ["one", "two", "seven"]}), tmp_path / "names.parquet"
    )
    _, _, values, _, source = rows_of(
        str(tmp_path),
        files,
        tables={"names": {"data": "names.parquet", "key": "id", "on": "a"}},
        fields=[*FIELDS, {"name": "Name", "column": "names.name"}],
    )
    assert values[table_key("names")] == ["1", "2", "9", "007", None]
    assert source.tables()[table_key("names")]["Name"].to_pylist() == ["one", "two", "seven"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"id": [1, 2, 1], "name": ["a", "b", "c"]},
            r"names\.parquet, row 3: id='1' is there a second time, after .*row 1",
        ),
        ({"id": [1, None], "name": ["a", "b"]}, r"names\.parquet, row 2: has no id"),
        ({"id": [1, 2]}, r"names\.parquet: has no column 'name'"),
    ],
)
def test_a_table_that_cannot_be_joined(tmp_path, table, said):
    pq.write_table(pa.table(table), tmp_path / "names.parquet")
    with pytest.raises(InputError, match=said):
        rows_of(
            str(tmp_path),
            {"log.csv": "a,b,y\n1,x,1\n"},
            tables={"names": {"data": "names.parquet", "key": "id", "on": "a"}},
            fields=[*FIELDS, {"name": "Name", "column": "names.name"}],
        )[-1].tables()


def test_partitions_and_parts_of_structs_are_columns(tmp_path):
    table = pa.table({"a": [{"x": 1, "z": "p"}, {"x": 2, "z": None}], "y": [1, 0]})
    _, _, values, _, _ = rows_of(
        str(tmp_path),
        {
            "dt=2024-05-01/log.parquet": table,
            "_temporary/half.parquet": b"not a file",
            "dt=2024-05-02/.crc": b"x",
        },
        data=["**/*.parquet"],
        fields=[{"name": "A", "column": "a.z"}, {"name": "Day", "column": "dt"}],
    )
    assert values == {"A": ["p", None], "Day": ["2024-05-01"] * 2}


def test_values_of_the_label_rule_that_never_occur_are_warned_of(tmp_path):
    *_, findings, source = rows_of(
        str(tmp_path),
        {"log.csv": "a,b,y\nx,y,buy\n"},
        label=LABEL | {"positive": ["buy", "bought"], "drop": [3]},
    )
    assert source.warnings(findings) == ["label y: '3', 'bought' never occurred; check drop and positive"]


def test_a_json_array_and_objects_within_objects(tmp_path):
    content = json.dumps([{"a": {"k": 1}, "b": 5.0, "y": True}, {"b": None, "y": False}])
    labels, _, values, _, _ = rows_of(
        str(tmp_path),
        {"log.json": content},
        fields=[{"name": "A", "column": "a.k"}, {"name": "B", "column": "b"}],
    )
    assert (labels, values) == ([1, 0], {"A": ["1", None], "B": ["5", None]})


def test_new_rows_may_lack_the_clicks_all_or_none_of_them():
    rule = Explode.model_validate(
        {"columns": ["shown"], "separator": " ", "split": "-", "into": ["news", "click"]}
    )

    def of(*cells, labelled):
        rows, origin = exploded(pa.table({"shown": list(cells)}), rule, labelled=labelled)
        return rows["news"].to_pylist(), rows["click"].to_pylist(), origin.tolist()

    assert of("N1 N2", "", "N3", labelled=False) == (["N1", "N2", "N3"], [None] * 3, [0, 0, 2])
    assert of("N1-1 N2-0", labelled=False) == (["N1", "N2"], ["1", "0"], [0, 0])
    for cells, labelled in ((("N1 N2",), True), (("N1-1", "N2"), False)):
        with pytest.raises(BadValue, match="has no '-' between two parts"):
            of(*cells, labelled=labelled)

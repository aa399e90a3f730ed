"""`prepare --check`: what is warned of is there, and what is fine isn't warned of."""

import json
from unicodedata import combining, east_asian_width

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.cli.main import main
from clickprompt.data.sources.check import check_source
from clickprompt.data.sources.leaks import decides_label
from clickprompt.data.sources.registry import get_source
from clickprompt.errors import DataError
from tests.support.raw_movielens import ratings, write_1m

ROWS = 3000


def write(folder, click=None):
    draw = np.random.default_rng(0)
    label = draw.random(ROWS) < 0.3 if click is None else click
    columns = {
        "user": [f"u{i}" for i in draw.integers(0, 100, ROWS)],
        "session": [f"s{i}" for i in range(ROWS)],
        "outcome": np.where(label, "paid", draw.choice(["left", "closed"], ROWS)),
        "country": [None if i % 4 else "nl" for i in range(ROWS)],
        "shop": ["one"] * ROWS,
        "price": draw.random(ROWS) * 30,
        "click": label.astype(int),
    }
    pq.write_table(pa.table(columns), folder / "log.parquet")
    names = [name for name in columns if name != "click"]
    fields = [
        {"name": name, "column": name} | ({"kind": "numeric", "edges": [10, 20]} if name == "price" else {})
        for name in names
    ]
    (folder / "schema.yaml").write_text(
        yaml.safe_dump({"data": ["log.parquet"], "fields": fields, "label": {"column": "click"}})
    )
    return str(folder / "schema.yaml")


def test_fields_and_warnings(tmp_path):
    found = check_source(get_source(write(tmp_path), None))
    fields = {field["name"]: field for field in found["fields"]}
    assert found["rows"] == ROWS
    assert found["label_rate"] == pytest.approx(0.3, abs=0.03)
    assert found["warnings"] == []
    assert [name for name, field in fields.items() if not field["warnings"]] == ["user", "price"]
    assert "most come once" in fields["session"]["warnings"][0]
    assert "decides the label" in fields["outcome"]["warnings"][0]
    assert fields["country"]["warnings"] == ["missing in 75% of the rows"]
    assert "one value only" in fields["shop"]["warnings"][0]
    assert fields["user"]["distinct"] == 100
    assert fields["price"]["distinct"] == 3
    assert (fields["price"]["kind"], fields["user"]["kind"]) == ("numeric", "categorical")
    assert fields["price"]["example"] in ("below 10", "10 to 20", "20 or more")


def test_a_sample_of_many_files_is_from_all_over_and_leaves_the_others_unread(tmp_path):
    for number in range(20):
        rows = np.arange(1000)
        columns = {"file": [f"f{number}"] * 1000, "row": rows % 7, "click": (rows + number) % 2, "time": rows}
        pq.write_table(pa.table(columns), tmp_path / f"log-{number:02d}.parquet")
    for number in set(range(20)) - set(range(0, 20, 3)):  # their footers, which say the columns, stay
        with open(tmp_path / f"log-{number:02d}.parquet", "r+b") as stream:
            stream.seek(4)
            stream.write(b"\xff" * 200)
    fields = [{"name": name, "column": name} for name in ("file", "row")]
    schema = {"data": ["log-*.parquet"], "fields": fields, "label": {"column": "click"}, "timestamp": "time"}
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    found = check_source(get_source(str(tmp_path / "schema.yaml"), None), rows=1400)
    assert (found["rows"], found["label_rate"]) == (1400, 0.5)
    assert [field["distinct"] for field in found["fields"]] == [7, 7]


def test_a_log_without_rows_is_refused(tmp_path):
    path = write(tmp_path)
    pq.write_table(pq.read_table(tmp_path / "log.parquet").slice(0, 0), tmp_path / "log.parquet")
    with pytest.raises(DataError, match="the log has no rows"):
        check_source(get_source(path, None))


def test_rare_clicks_are_warned_of(tmp_path):
    found = check_source(get_source(write(tmp_path, np.arange(ROWS) < 6), None))
    assert found["warnings"] == ["0.20% of the rows are clicks: check the label rule"]


def test_fields_of_joined_tables(tmp_path):
    found = check_source(get_source("movielens-1m", write_1m(str(tmp_path), ratings(50))))
    kept = [row for row in ratings(50) if row[2] != 3]
    assert (found["rows"], found["dropped"]) == (len(kept), 50 - len(kept))
    assert {field["name"]: field["distinct"] for field in found["fields"]}["Gender"] == 2


def test_command_prints_a_line_a_field_and_writes_nothing(tmp_path, capsys):
    path = write(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", path, "--check"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    assert "outcome" in output
    assert "decides the label" in output
    with pytest.raises(SystemExit):
        main(["prepare", path, "--check", "--json"])
    assert len(json.loads(capsys.readouterr().out)["fields"]) == 6
    assert sorted(tmp_path.iterdir()) == before


def test_out_is_needed_without_check(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", write(tmp_path)])
    assert stopped.value.code == 2
    assert "--out" in capsys.readouterr().err


def log(folder, columns, fields, rows_per_group=500, **schema):
    pq.write_table(pa.table(columns), folder / "log.parquet", row_group_size=rows_per_group)
    made = {"data": ["log.parquet"], "fields": fields, "label": {"column": "click"}} | schema
    (folder / "schema.yaml").write_text(yaml.safe_dump(made, allow_unicode=True))
    return get_source(str(folder / "schema.yaml"), None)


def named(*columns):
    return [{"name": column, "column": column} for column in columns]


def warned(found, field):
    return [warning for one in found["fields"] if one["name"] == field for warning in one["warnings"]]


def test_names_of_the_machinery_are_names_of_fields(tmp_path):
    """One table, whose columns have them too."""
    names = ["label", "key", "timestamp", "values", "row_id", "group", "things"]
    draw = np.random.default_rng(1)
    columns = {name: [f"{name}{i}" for i in draw.integers(0, 9, ROWS)] for name in names} | {
        "click": draw.integers(0, 2, ROWS)
    }
    write_things = {"key": [f"key{i}" for i in range(9)], "label": [f"of {i}" for i in range(9)]}
    pq.write_table(pa.table(write_things), tmp_path / "things.parquet")
    fields = [*named(*names), {"name": "Thing label", "column": "stuff.label"}]
    source = log(tmp_path, columns, fields, tables={"stuff": {"data": "things.parquet", "key": "key"}})
    found = check_source(source)
    assert {field["name"]: field["distinct"] for field in found["fields"]} == dict.fromkeys(
        [*names, "Thing label"], 9
    )
    assert [field["example"][:2] for field in found["fields"]][-1] == "of"
    assert found["warnings"] == []


def test_rows_keep_their_order_and_lose_no_row_to_a_missing_key(tmp_path):
    """Half of the joined table's keys are there; the field is then missing, and reported so."""
    item = np.arange(ROWS) % 10
    pq.write_table(
        pa.table({"id": range(5), "title": [f"title {i}" for i in range(5)]}), tmp_path / "items.parquet"
    )
    fields = [*named("item"), {"name": "Title", "column": "items.title"}]
    tables = {"items": {"data": "items.parquet", "key": "id", "on": "item"}}
    found = check_source(log(tmp_path, {"item": item, "click": np.isin(item, [0, 3])}, fields, tables=tables))
    assert found["rows"] == ROWS
    assert found["tables"] == [{"name": "items", "rows": 5, "missing_keys": 0.5, "example": "5"}]
    assert found["warnings"] == ["table items: 50.0% of the rows have a key that it hasn't, such as '5'"]
    assert [field["missing"] for field in found["fields"]] == [0, 0.5]
    assert warned(found, "Title") == [
        "its value decides the label: a leak? leave the field out unless it is known before the click"
    ]


def test_splits_by_time_as_they_would_fall(tmp_path):
    """Eight days for training, one for each of the others; the log isn't in order, users of the last day are
    new.
    """
    day = np.random.default_rng(0).permutation(np.repeat(np.arange(10), ROWS // 10))
    columns = {
        "user": np.where(day == 9, "new", "old"),
        "place": day % 2,
        "click": (day < 9) & (np.arange(ROWS) % 2),
        "when": 1714521600 + 86400 * day,
    }
    source = log(tmp_path, columns, named("user", "place"), timestamp="when")
    found = check_source(source)
    assert found["splits"] == {
        "train": {
            "rows": 2400,
            "label_rate": pytest.approx(0.5, abs=0.05),
            "first": "2024-05-01",
            "last": "2024-05-08",
            "unseen": {},
        },
        "valid": {
            "rows": 300,
            "label_rate": pytest.approx(0.5, abs=0.1),
            "first": "2024-05-09",
            "last": "2024-05-09",
            "unseen": {},
        },
        "test": {
            "rows": 300,
            "label_rate": 0,
            "first": "2024-05-10",
            "last": "2024-05-10",
            "unseen": {"user": 1.0},
        },
    }
    assert found["files"] == {"rows": ROWS, "row_groups": 6, "first": "2024-05-01", "last": "2024-05-10"}
    assert (
        "test has no clicks only: its AUC is undefined; split by hash, or prepare more rows"
        in found["warnings"]
    )
    assert any("repeat another in all fields" in warning for warning in found["warnings"])
    by_hash = check_source(source, split_by="hash")
    assert {split["first"] for split in by_hash["splits"].values()} == {None}
    assert "user" not in by_hash["splits"]["test"]["unseen"]


def test_splits_of_a_column(tmp_path):
    part = np.array(["train", "valid", "test"])[np.arange(ROWS) % 3]
    found = check_source(
        log(
            tmp_path,
            {"a": part, "b": part, "click": np.arange(ROWS) % 2, "part": part},
            named("a", "b"),
            split="part",
        )
    )
    assert [split["rows"] for split in found["splits"].values()] == [1000, 1000, 1000]
    assert found["splits"]["test"]["unseen"] == {"a": 1.0, "b": 1.0}


def test_repeated_rows_are_counted(tmp_path):
    def check(rows, **others):
        columns = {"a": rows % 50, "b": rows % 7, "click": rows % 2, "t": rows + 10**9} | others
        return check_source(log(tmp_path, columns, named("a", "b"), timestamp="t"))

    rows = np.arange(ROWS)
    assert check(rows // 2)["duplicates"] == ROWS // 2
    found = check(rows)
    assert (found["duplicates"], found["warnings"]) == (0, [])
    # alike in label and time, not in their fields; the last time is in the last row group
    found = check(rows, click=rows // 2 % 2, t=rows // 2 * 86400 + 10**9)
    assert (found["duplicates"], found["files"]["first"], found["files"]["last"]) == (
        0,
        "2001-09-09",
        "2005-10-17",
    )


def test_a_missing_value_is_no_new_one(tmp_path):
    rows = np.arange(ROWS)
    columns = {
        "a": pa.array([None if row >= 2900 else row % 5 for row in rows]),
        "b": rows % 3,
        "click": rows % 2,
        "t": rows + 10**9,
    }
    found = check_source(log(tmp_path, columns, named("a", "b"), timestamp="t"))
    assert found["splits"]["test"]["unseen"] == {}


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("caf\u00e9", "cafe\u0301", "Unicode form (NFC, NFD)"),
        ("new york", "new  york", "blanks"),
        ("new york", "new\u00a0york", "blanks"),
        ("Nike", "NIKE", "case"),
        ("Caf\u00e9 A", "cafe\u0301  a", "case, blanks or Unicode form"),
    ],
)
def test_values_that_are_one_but_for_their_spelling(tmp_path, one, other, what):
    rows = np.arange(ROWS)
    columns = {
        "brand": np.where(rows % 3 == 0, one, np.where(rows % 3 == 1, other, "else")),
        "b": rows % 7,
        "click": rows % 2,
    }
    found = check_source(log(tmp_path, columns, named("brand", "b")))
    [warning] = warned(found, "brand")
    assert f"1 value is spelled in several ways that differ in {what} only" in warning
    assert warning.isprintable()
    assert warned(found, "b") == []


def test_nearly_one_value_none_twice_and_values_of_the_label_rule(tmp_path):
    rows = np.arange(ROWS)
    columns = {
        "a": np.where(rows % 200 == 0, "rare", "usual"),
        "b": [f"b{i}" for i in rows],
        "event": np.where(rows % 3, "view", "buy"),
        "c": rows % 5,
    }
    label = {"column": "event", "positive": ["buy", "byu"], "drop": ["test"]}
    found = check_source(log(tmp_path, columns | {"click": rows}, named("a", "b", "c"), label=label))
    assert warned(found, "a") == ["99.50% of the rows have one value, 'usual': it says next to nothing"]
    assert "none comes twice" in warned(found, "b")[0]
    assert found["warnings"] == [
        "in the sample: label event: 'test', 'byu' never occurred; check drop and positive"
    ]


def test_missing_values_of_all_rows_from_the_footers(tmp_path):
    """The sample has none of them."""
    rows = np.arange(ROWS)
    columns = {
        "a": pa.array([None if row >= 1500 else row % 5 for row in rows]),
        "b": rows % 3,
        "click": rows % 2,
    }
    source = log(tmp_path, columns, named("a", "b"))
    found = check_source(source, rows=1000)
    assert [(field["missing"], field["missing_in_files"]) for field in found["fields"]] == [(0, 0.5), (0, 0)]
    assert (found["rows"], found["files"]) == (1000, {"rows": ROWS, "row_groups": 6})


def test_numbers_in_quantiles_are_looked_at_in_their_buckets(tmp_path):
    draw = np.random.default_rng(0)
    fields = [*named("a"), {"name": "Price", "column": "price", "kind": "numeric", "quantiles": 4}]
    found = check_source(
        log(
            tmp_path,
            {"a": draw.integers(0, 9, ROWS), "price": draw.random(ROWS), "click": draw.integers(0, 2, ROWS)},
            fields,
        )
    )
    assert [field["distinct"] for field in found["fields"]] == [9, 4]
    assert warned(found, "Price") == []
    assert all(split["unseen"] == {} for split in found["splits"].values())


def test_csv_has_no_footers_and_lists_are_exploded(tmp_path):
    lines = [
        f"u{i % 20}\t{' '.join(f'N{(i * k) % 9}-{int(k == 1)}' for k in range(1, 4))}\n" for i in range(200)
    ]
    (tmp_path / "log.tsv").write_text("user\tshown\n" + "".join(lines))
    explode = {"columns": ["shown"], "separator": " ", "split": "-", "into": ["news", "click"]}
    schema = {
        "data": ["log.tsv"],
        "fields": named("user", "news"),
        "label": {"column": "click"},
        "explode": explode,
    }
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    found = check_source(get_source(str(tmp_path / "schema.yaml"), None))
    assert (found["rows"], found["files"], found["label_rate"]) == (600, None, pytest.approx(1 / 3))
    assert {field["missing_in_files"] for field in found["fields"]} == {None}


def test_columns_stay_aligned_whatever_the_names(tmp_path, capsys):
    names = [
        "a",
        "Üser",
        "商品",
        "a name that is so long that there is no place for it in a table",
        "e\u0301",
    ]
    rows = np.arange(ROWS)
    columns = {name: rows % (place + 2) for place, name in enumerate(names)} | {"click": rows % 2}
    log(tmp_path, columns, named(*names))
    with pytest.raises(SystemExit):
        main(["prepare", str(tmp_path / "schema.yaml"), "--check"])
    lines = capsys.readouterr().out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("field"))
    kinds = [line[: line.index("categorical")] for line in lines[first + 1 :] if "categorical" in line]
    assert len(kinds) == len(names)
    assert {
        sum(0 if combining(sign) else 2 if east_asian_width(sign) == "W" else 1 for sign in kind)
        for kind in kinds
    } == {lines[first].index("kind")}


def test_one_value_against_all_others_decides_the_label():
    """The number of an order, which only orders have; a value that is only ever a click. Not one that comes
    with clicks but not always, nor a rare one.
    """
    draw = np.random.default_rng(0)
    label = (np.arange(ROWS) % 10 == 0).astype(int)
    order = np.where(label, draw.integers(1, 500, ROWS), 0)
    assert decides_label(order, label)
    assert decides_label(np.where(label, 7, draw.integers(0, 7, ROWS)), label)
    assert not decides_label(np.where(label * (draw.random(ROWS) < 0.5), 7, draw.integers(0, 7, ROWS)), label)
    assert not decides_label(draw.integers(0, 500, ROWS), label)
    rare = (np.arange(ROWS) < 10).astype(int)
    assert not decides_label(np.where(rare, draw.integers(1, 5, ROWS), 0), rare)

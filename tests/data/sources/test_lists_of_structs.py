"""Logs whose rows are requests with a list of what was shown, as warehouses and services write them: read as
the flat log, in Parquet, JSON and requests to a server.
"""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.data.sources.draft import draft_schema
from clickprompt.data.sources.formats import DataFile, FileFormat
from clickprompt.data.sources.json_files import json_columns
from clickprompt.data.sources.parquet_files import parquet_columns, parquet_parts, read_parquet
from clickprompt.data.sources.reading import file_parts, read_rows
from clickprompt.data.sources.schema import load_schema
from clickprompt.data.transform.json_rows import tables_of
from clickprompt.errors import DataError
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.commands import printed

COLUMNS = ["shown.item", "shown.clicked", "page.shown.place", "tags.name"]
ROWS = [
    {
        "shown": [{"item": "a", "clicked": 1}, {"item": None, "clicked": 0}],
        "page": {"shown": [{"place": 3}]},
        "tags": [{"name": "red", "by": {"id": 1}}],
    },
    {"shown": [], "page": {"shown": None}, "tags": [{"name": "blue", "by": None}, None]},
    {"shown": None, "page": None, "tags": None},
    {"shown": [{"item": "c", "clicked": None}], "page": {"shown": []}, "tags": []},
]
MEANT = {
    "shown.item": [["a", None], [], None, ["c"]],
    "shown.clicked": [[1, 0], [], None, [None]],
    "page.shown.place": [[3], None, None, []],
    "tags.name": [["red"], ["blue", None], None, []],
}
STRUCT = pa.struct([("item", pa.string()), ("clicked", pa.int8())])
TAG = pa.struct([("name", pa.dictionary(pa.int32(), pa.string())), ("by", pa.struct([("id", pa.int64())]))])
PAGE = pa.struct([("shown", pa.list_(pa.struct([("place", pa.int32())])))])


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_parquet(tmp_path, kind):
    schema = pa.schema([("shown", kind(STRUCT)), ("page", PAGE), ("tags", kind(TAG))])
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS * 3, schema=schema), path, row_group_size=5)
    types = parquet_columns(DataFile(path, 0))
    assert types == {
        "shown.item": pa.list_(pa.string()),
        "shown.clicked": pa.list_(pa.int8()),
        "page.shown.place": pa.list_(pa.int32()),
        "tags.name": pa.list_(pa.string()),
        "tags.by.id": pa.list_(pa.int64()),
    }
    for columns in (COLUMNS, COLUMNS[2:3], [*COLUMNS, "tags.by.id"]):
        [part] = parquet_parts(DataFile(path, 0), FileFormat())
        table = pa.concat_tables(read_parquet(part, columns))
        assert table.select([name for name in columns if name in MEANT]).to_pydict() == {
            name: meant * 3 for name, meant in MEANT.items() if name in columns
        }
        assert {name: table.schema.field(name).type for name in columns} == {
            name: types[name] for name in columns
        }
    assert table["tags.by.id"].to_pylist()[:4] == [[1], [None, None], None, []]


def test_fixed_size_lists(tmp_path):
    rows = [[{"item": "a", "clicked": 1}, {"item": "b", "clicked": 0}], None]
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"shown": pa.array(rows, pa.list_(STRUCT, 2))}), path)
    [part] = parquet_parts(DataFile(path, 0), FileFormat())
    found = pa.concat_tables(read_parquet(part, ["shown.item"]))
    assert found["shown.item"].to_pylist() == [["a", "b"], None]


def test_text_that_is_not_utf8_within(tmp_path):
    rows = [[{"item": b"a"}], [{"item": b"b"}, {"item": b"\xff"}]]
    kind = pa.list_(pa.struct([("item", pa.binary())]))
    pq.write_table(pa.table({"shown": pa.array(rows, kind)}), tmp_path / "log.parquet")
    [part] = parquet_parts(DataFile(str(tmp_path / "log.parquet"), 0), FileFormat())
    with pytest.raises(DataError, match=r"row 2: column shown\.item is not UTF-8 text"):
        list(read_parquet(part, ["shown.item"]))


def as_texts(lists):
    return [values and [None if value is None else str(value) for value in values] for values in lists]


def test_json(tmp_path):
    path = str(tmp_path / "log.jsonl")
    with open(path, "w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert {*COLUMNS, "tags.by.id"} <= {*json_columns(path, FileFormat())}
    found = pa.concat_tables(read_rows(file_parts(DataFile(path, 1), FileFormat())[0], COLUMNS, FileFormat()))
    assert found.to_pydict() == {name: as_texts(meant) for name, meant in MEANT.items()}


def test_requests_to_a_server():
    tables, errors = tables_of(ROWS, COLUMNS)
    assert errors == []
    found = {
        int(place): row
        for places, table in tables
        for place, row in zip(places, table.to_pylist(), strict=True)
    }
    for name, meant in MEANT.items():
        assert [found[row][name] for row in range(4)] == [values or None for values in meant]


def test_a_list_of_lists_or_of_both_is_no_such_list():
    rows = [{"shown": ["x", {"item": "a"}]}, {"shown": [[{"item": "a"}]]}]
    [(_, table)], errors = tables_of(rows, ["shown.item"])
    assert (table["shown.item"].to_pylist(), errors) == ([None, None], [])


def request(draw, number):
    shown = [
        {"item": f"i{draw.randint(1, 30)}", "clicked": int(draw.random() < 0.4), "place": place}
        for place in range(draw.randint(0, 4))
    ]
    return {
        "request_id": f"q{number}",
        "user": f"u{draw.randint(1, 20)}",
        "ts": 1714557600 + number,
        "shown": shown,
    }


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_from_a_draft_to_scores_of_new_requests(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(1)
    requests = [request(draw, number) for number in range(300)]
    flat = [
        {"request_id": one["request_id"], "user": one["user"], "ts": one["ts"]}
        | {f"shown.{name}": value for name, value in shown.items()}
        for one in requests
        for shown in one["shown"]
    ]
    write(f"log.{kind}", requests)
    write("flat.parquet", flat)
    made = draft_schema([f"log.{kind}"], ".")
    (tmp_path / "log.yaml").write_text(made.text)
    schema = load_schema("log.yaml")
    assert schema.explode.columns == ("shown.item", "shown.clicked", "shown.place")
    assert (schema.label.column, schema.item, schema.user, schema.group, schema.timestamp.column) == (
        *("shown.clicked", "shown.item", "user", "request_id", "ts"),
    )
    lines = [
        line
        for line in made.text.replace(f"log.{kind}", "flat.parquet").splitlines()
        if "explode" not in line
    ]
    (tmp_path / "flat.yaml").write_text("\n".join(lines))
    nested, plain = (
        prepare(f"{name}.yaml", None, f"d-{name}", progress=lambda line: None) for name in ("log", "flat")
    )
    for split in ("train", "valid", "test"):
        assert nested.read_split(split) == plain.read_split(split)
    changes = (
        "data.path=d-log",
        "runtime.use_ray=never",
        "finetune.with_plm=false",
        "ctr.embedding_dim=4",
        "ctr.hidden_dim=8",
    )
    printed(capsys, "finetune", "--run", "r", *(word for one in changes for word in ("--set", one)))
    for one in requests:
        for shown in one["shown"]:
            del shown["clicked"]  # as it is before anything was shown
    write(f"new.{kind}", requests)
    scores = []
    for number, rows in enumerate((f"new.{kind}", f"log.{kind}", "flat.parquet")):
        out = f"p{number}"
        printed(capsys, "predict", "--run", "r", "--rows", rows, "--out", out, "--keep", "request_id")
        found = pq.read_table(out).to_pydict()
        scores.append((found["request_id"], found["logit"]))
    assert scores[0] == scores[1] == scores[2]
    assert len(scores[0][1]) == len(flat)


def write(path, rows):
    if path.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)
        return
    with open(path, "w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("flat", "listed", "label"),
    [
        ({"clicked": 1}, {"weight": 1}, "clicked"),  # surely
        ({"clk2": 1}, {"weight": 1}, "clk2"),  # as good a guess
        ({"clk2": 1}, {"clicked": 1}, "shown.clicked"),
        ({}, {"weight": 1}, "shown.weight"),
    ],
)
def test_a_draft_explodes_lists_only_for_a_better_label(tmp_path, flat, listed, label):
    rows = [
        {"user": f"u{row % 7}"}
        | dict.fromkeys(flat, row % 2)
        | {"shown": [{"item": f"i{place}"} | dict.fromkeys(listed, (row + place) % 2) for place in range(3)]}
        for row in range(60)
    ]
    write(str(tmp_path / "log.parquet"), rows)
    text = draft_schema([str(tmp_path / "log.parquet")], str(tmp_path)).text
    assert f"label: {{column: {label}}}" in text
    assert ("explode:" in text) == label.startswith("shown.")

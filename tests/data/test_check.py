"""`prepare --check`: what is warned of is there, and what is fine isn't warned of."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.cli import main
from clickprompt.data.check import check_source
from clickprompt.data.sources import get_source
from clickprompt.errors import DataError
from tests.raw_movielens import ratings, write_1m

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
    fields = [{"name": name, "column": name} | ({"kind": "numeric", "edges": [10, 20]} if name == "price" else {}) for name in names]
    (folder / "schema.yaml").write_text(yaml.safe_dump({"data": ["log.parquet"], "fields": fields, "label": {"column": "click"}}))
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

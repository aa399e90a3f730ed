"""Histories that a column of the log gives: the items that a loop over its rows finds; what is refused."""

import csv

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clickprompt.config import History
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import ConfigError, InputError
from clickprompt.runtime.prepare import coded_log
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.histories import ITEMS, write_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}
COLUMN = 'history: {column: seen, length: 3, separator: " "}'


def write_with_lists(folder, history=COLUMN, more=""):
    """The log of histories, with a further column: up to five items, some of them in no row of the log."""
    schema = write_log(str(folder), history=f"{history}\n{more}")
    rng = np.random.default_rng(1)
    for file in sorted(folder.glob("log-*.csv")):
        lines = file.read_text().splitlines()
        seen = [" ".join(map(str, rng.integers(0, ITEMS + 5, rng.integers(6)))) for _ in lines]
        seen[0] = "seen"
        file.write_text("\n".join(map(",".join, zip(lines, seen, strict=True))) + "\n")
    return schema


def raw_rows(folder):
    return [row for file in sorted(folder.glob("log-*.csv")) for row in csv.DictReader(file.open())]


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS]).to_pandas()
    return whole.sort_values("row_id")


def by_hand(dataset, raw, last=True):
    words = dataset.vocabulary(1)["value"].to_pylist()
    number = {word: place for place, word in enumerate(words) if place}
    found = []
    for row in raw:
        items = row["seen"].split()
        items = items[::-1] if last else items
        found.append(([number.get(item, 0) for item in items[:3]] + [0] * 3)[:3])
    return np.array(found)


@pytest.mark.parametrize("newest", ["last", "first"])
@pytest.mark.parametrize("partitions", [1, 3])
def test_equal_to_a_loop_over_the_rows(tmp_path, monkeypatch, newest, partitions):
    monkeypatch.setattr(coded_log, "partitions_for", lambda rows: partitions)
    schema = write_with_lists(tmp_path / "log", COLUMN.replace("}", f", newest: {newest}}}"))
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    assert dataset.history == History(field=1, length=3)
    rows, raw = rows_of(dataset), raw_rows(tmp_path / "log")
    found = rows[dataset.history_columns].to_numpy()
    np.testing.assert_array_equal(found, by_hand(dataset, raw, newest == "last"))
    items = dataset.vocabulary(1)["value"].to_pylist()
    assert set(items[1:]) == {row["item"] for row in raw}, "items that only histories have are none"
    assert ((found == 0) & (np.roll(found, -1, 1) > 0))[:, :2].any(), "an unknown item keeps its place"
    transformed = RowTransform.of_dataset(dataset)(pa.Table.from_pandas(pd.DataFrame(raw)))
    np.testing.assert_array_equal(transformed.all_ids, rows[dataset.id_columns].to_numpy())


def test_a_column_of_lists_is_as_a_text(tmp_path):
    schema = write_with_lists(tmp_path / "log")
    of_text = prepare(schema, None, str(tmp_path / "text"), **SMALL)
    raw = pd.DataFrame(raw_rows(tmp_path / "log"))
    other = tmp_path / "other"
    other.mkdir()
    numbers = {name: raw[name].astype(int) for name in ("item", "time", "click")}
    lists = raw.assign(seen=[[int(item) for item in text.split()] for text in raw.seen], **numbers)
    lists.to_parquet(other / "log-0.parquet")
    text = (tmp_path / "log" / "log.yaml").read_text()
    text = text.replace("log-*.csv", "log-0.parquet").replace(', separator: " "', "")
    (other / "log.yaml").write_text(text)
    of_lists = prepare(str(other / "log.yaml"), None, str(tmp_path / "lists"), **SMALL)
    pd.testing.assert_frame_equal(rows_of(of_lists), rows_of(of_text))
    found = RowTransform.of_dataset(of_lists)(pa.Table.from_pandas(lists)).all_ids
    np.testing.assert_array_equal(found, rows_of(of_lists)[of_lists.id_columns].to_numpy())


def test_the_same_log_without_it(tmp_path):
    """Nothing else differs but the order of the items' ids; a k-core keeps the histories of its rows."""
    schema = write_with_lists(tmp_path / "log", more="k_core: 20")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    rows, raw = rows_of(dataset), raw_rows(tmp_path / "log")
    assert 100 < len(rows) < len(raw)
    kept = [raw[row_id] for row_id in rows.row_id]
    np.testing.assert_array_equal(rows[dataset.history_columns].to_numpy(), by_hand(dataset, kept))
    plain = tmp_path / "log" / "plain.yaml"
    plain.write_text((tmp_path / "log" / "log.yaml").read_text().replace(COLUMN, ""))
    without = prepare(str(plain), None, str(tmp_path / "without"), **SMALL)
    assert "history" not in without.manifest["transform"]
    for name, field in (("f_user_id", 0), ("f_movie_id", 1), ("f_film_genre", 2)):
        ours, theirs = (
            np.array(one.vocabulary(field)["value"].to_pylist(), object)[rows_of(one)[name]]
            for one in (dataset, without)
        )
        assert ours.tolist() == theirs.tolist()


def test_impressions_of_one_row_have_its_history(tmp_path):
    """As in MIND: a session's impressions are one text, its history another."""
    (tmp_path / "log.csv").write_text(
        "user,seen,impressions\nu1,N1 N2 N3,N1-1 N4-0\nu2,,N2-0 N3-1\nu3,N9 N4,N1-0 N2-1\n"
    )
    schema = tmp_path / "log.yaml"
    schema.write_text(
        """data: log.csv
explode: {columns: [impressions], separator: " ", split: "-", into: [news, clicked]}
fields:
- {name: User, column: user}
- {name: News, column: news}
label: {column: clicked}
item: news
history: {column: seen, length: 2, separator: " "}
"""
    )
    dataset = prepare(str(schema), None, str(tmp_path / "out"))
    words = ["-", *dataset.vocabulary(1)["value"].to_pylist()[1:]]
    found = [[words[place] for place in ids] for ids in rows_of(dataset)[["h_00", "h_01"]].to_numpy()]
    assert found == [["N3", "N2"]] * 2 + [["-", "-"]] * 2 + [["N4", "-"]] * 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("length: 3", "length: 0", r"length=0: give a whole number ≥ 1, ≤ 100"),
        (COLUMN, "history: 101", "101 is neither; give a number of rows from 1 to 100, or a column as"),
        ("history: {", "history_of: all\nhistory: {", "a column of the log says itself what is in it"),
        ("item: item", "item: genre2", "no field is the item's"),
        ("column: item}", "column: item, max_characters: 3}", "compared with the field Movie ID as it is in"),
    ],
)
def test_schemas_that_make_no_sense(tmp_path, old, new, said):
    schema = tmp_path / "log" / "log.yaml"
    write_with_lists(tmp_path / "log")
    text = schema.read_text()
    assert old in text
    schema.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        prepare(str(schema), None, str(tmp_path / "out"))


def test_rows_are_appended_with_theirs(tmp_path):
    """Also with items that are in no row of the new file, and with some that no row has at all."""
    schema = write_with_lists(tmp_path / "log")
    last = tmp_path / "log" / "log-2.csv"
    text = last.read_text()
    last.unlink()
    prepare(schema, None, str(tmp_path / "out"), **SMALL)
    header, *lines = text.splitlines()
    last.write_text("\n".join([header, *lines[:9]]) + "\n")
    dataset = append(schema, None, str(tmp_path / "out"))
    found = rows_of(dataset)[dataset.history_columns].to_numpy()[-9:]
    expected = by_hand(dataset, raw_rows(tmp_path / "log"))[-9:]
    np.testing.assert_array_equal(found, expected)
    assert len({*expected.ravel()} - {*rows_of(dataset)["f_movie_id"].iloc[-9:]}) > 3


def test_what_is_refused(tmp_path):
    schema = write_with_lists(tmp_path / "log")
    with pytest.raises(
        InputError, match="has its own in the column seen; leave --history and --history-of out"
    ):
        prepare(schema, None, str(tmp_path / "out"), history=3)

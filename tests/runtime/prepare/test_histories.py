"""`prepare --history`: columns that a loop over the log gives, however it is cut; and what is refused."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clickprompt.cli.main import main
from clickprompt.config import History, RuntimeConfig
from clickprompt.data.prepared.dataset import SPLITS, Dataset
from clickprompt.data.transform.columns import BadValue
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import InputError
from clickprompt.runtime.prepare import histories
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.folders import files_below
from tests.support.histories import FURTHER, LENGTH, write_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS]).to_pandas()
    return whole.sort_values(["timestamp", "row_id"])


def by_hand(rows, events):
    before, found = {}, []
    for row in rows.itertuples():
        seen = before.setdefault(row.f_user_id, [])
        found.append((seen[::-1] + [0] * LENGTH)[:LENGTH])
        if row.label or events == "all":
            seen.append(row.f_movie_id)
    return np.array(found)


def rewrite(path, old, new):
    with open(path) as stream:
        text = stream.read()
    assert old in text
    with open(path, "w") as stream:
        stream.write(text.replace(old, new, 1))


@pytest.mark.parametrize("events", ["clicks", "all"])
@pytest.mark.parametrize("per_bucket", [1 << 19, 50])
def test_equal_to_a_loop_over_the_log(tmp_path, monkeypatch, events, per_bucket):
    monkeypatch.setattr(histories, "_ROWS_PER_BUCKET", per_bucket)
    schema = write_log(str(tmp_path / "log"), history=f"history: {LENGTH}\nhistory_of: {events}")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    assert dataset.history == History(field=1, length=LENGTH)
    rows = rows_of(dataset)
    found = rows[dataset.history_columns].to_numpy()
    np.testing.assert_array_equal(found, by_hand(rows, events))
    assert (found[:, -1] > 0).mean() > 0.5
    dataset.verify()


def further_by_hand(rows):
    """Ids of the earlier rows' genres, labels and ages, by a loop over all rows before each."""
    genres, labels, ages = [], [], []
    for row in rows.itertuples():
        before = [
            one
            for one in rows.itertuples()
            if one.f_user_id == row.f_user_id and (one.timestamp, one.row_id) < (row.timestamp, row.row_id)
        ]
        newest = before[::-1][:LENGTH]
        none = [0] * (LENGTH - len(newest))
        seconds = [(row.timestamp - one.timestamp) / 1e6 for one in newest]
        genres.append([one.f_film_genre for one in newest] + none)
        labels.append([1 + one.label for one in newest] + none)
        ages.append([1 if age < 1 else 2 + int(math.log2(age)) for age in seconds] + none)
    return np.concatenate([genres, labels, ages], axis=1)


@pytest.mark.parametrize("per_bucket", [1 << 19, 500])
def test_further_columns_equal_to_a_loop(tmp_path, monkeypatch, per_bucket):
    monkeypatch.setattr(histories, "_ROWS_PER_BUCKET", per_bucket)
    schema = write_log(str(tmp_path / "log"), history=FURTHER)
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    assert dataset.history == History(1, LENGTH, (2, "label", "age"))
    assert dataset.manifest["options"]["history_with"] == ["Film genre", "label", "age"]
    rows = rows_of(dataset)
    names = dataset.history_columns
    assert names[LENGTH::LENGTH] == ["h_02_00", "h_label_00", "h_age_00"]
    np.testing.assert_array_equal(rows[names[:LENGTH]].to_numpy(), by_hand(rows, "all"))
    np.testing.assert_array_equal(rows[names[LENGTH:]].to_numpy(), further_by_hand(rows))
    # In another order they are the same
    again = prepare(schema, None, str(tmp_path / "out"), history_with=["age", "Film genre", "label"], **SMALL)
    assert again.fingerprint == dataset.fingerprint


def test_the_option_is_the_schemas(tmp_path):
    """Also for known logs; and one without histories has the same files but for these columns."""
    with_it = prepare(write_log(str(tmp_path / "log")), None, str(tmp_path / "with"), **SMALL)
    schema = write_log(str(tmp_path / "log2"), history="")
    by_option = prepare(schema, None, str(tmp_path / "option"), history=LENGTH, **SMALL)
    without = prepare(schema, None, str(tmp_path / "without"), **SMALL)
    assert without.history is None
    assert without.history_columns == []
    assert "history" not in without.manifest
    pd.testing.assert_frame_equal(rows_of(with_it), rows_of(by_option))
    fields = list(rows_of(without).columns)
    assert not set(fields) & set(by_option.history_columns)
    pd.testing.assert_frame_equal(rows_of(by_option)[fields], rows_of(without))


def test_rare_items_have_no_id(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    rewrite(schema, "column: item}", "column: item, min_count: 18}")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    rows = rows_of(dataset)
    assert 0 < (rows.f_movie_id == 0).mean() < 1
    np.testing.assert_array_equal(rows[dataset.history_columns].to_numpy(), by_hand(rows, "clicks"))


def test_rows_without_a_user_have_none(tmp_path):
    """They are of many users, whose clicks are no one's history."""
    schema = write_log(str(tmp_path / "log"))
    nobody = {"red 0", "blue 1", "green 2"}
    for file in (tmp_path / "log").glob("log-*.csv"):
        lines = file.read_text().splitlines()
        kept = [line if line.split(",")[0] not in nobody else line[line.index(",") :] for line in lines]
        file.write_text("\n".join(kept) + "\n")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    rows = rows_of(dataset)
    without = (rows.f_user_id == 0).to_numpy()
    found = rows[dataset.history_columns].to_numpy()
    assert without.sum() > 50
    assert not found[without].any()
    np.testing.assert_array_equal(found[~without], by_hand(rows, "clicks")[~without])


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path, ray_session, monkeypatch):
    schema = write_log(str(tmp_path / "log"))
    prepare(schema, None, str(tmp_path / "here"), **SMALL)
    prepare(schema, None, str(tmp_path / "ray"), runtime=RuntimeConfig(use_ray="always"), **SMALL)
    assert files_below(str(tmp_path / "here")) == files_below(str(tmp_path / "ray"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"history": 0}, "history=0: give a number of rows from 1 to 100, or leave it out"),
        ({"history": 101}, "history=101: give a number of rows from 1 to 100"),
        ({"history": 3, "history_of": "buys"}, "history_of='buys' is unknown; known: clicks, all"),
        ({"history_of": "all"}, "history_of=all: there is no history; give its length as history, too"),
        ({"history_with": ["age"]}, "history_with=age: there is no history; give its length as history"),
        (
            {"history": 3, "history_with": ["rating"]},
            "history_with='rating' is unknown; known: label, age, User ID, Film genre$",
        ),
        (
            {"history": 3, "history_with": ["label"]},
            "history_with=label: all rows of a history of clicks are clicked; set history_of=all, or leave",
        ),
        ({"history": 3, "history_with": ["Movie ID"]}, "with=Movie ID: the items are the history itself; l"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, said):
    schema = write_log(str(tmp_path / "log"), history="")
    with pytest.raises(InputError, match=said):
        prepare(schema, None, str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_a_log_without_users_has_none(tmp_path):
    schema = write_log(str(tmp_path / "log"), history="")
    rewrite(schema, "user: user\n", "")
    with pytest.raises(InputError, match="no field is the user's; name its column as user in the schema"):
        prepare(schema, None, str(tmp_path / "out"), history=2)


@pytest.mark.parametrize(
    ("old", "new", "name", "said"),
    [
        (
            "column: genre}",
            "column: genre, kind: multi, separator: x, take: each}",
            "Film genre",
            "several values",
        ),
        (
            "column: genre}",
            "column: genre, kind: numeric, log: 2, learned: true}",
            "Film genre",
            "are learned",
        ),
        ("name: Film genre", "name: age", "age", "a field has that name, too; give the field another one"),
        ("timestamp: time\n", "", "age", "has no times; leave it out"),
    ],
)
def test_what_an_earlier_row_cant_have(tmp_path, old, new, name, said):
    schema = write_log(str(tmp_path / "log"))
    rewrite(schema, old, new)
    with pytest.raises(InputError, match=f"history_with={name}: .*{said}"):
        prepare(schema, None, str(tmp_path / "out"), history_with=[name])


@pytest.fixture(scope="module")
def transform(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transform")
    schema = write_log(str(folder / "log"), history=FURTHER)
    return RowTransform.of_dataset(prepare(schema, None, str(folder / "out"), **SMALL))


def new_rows(**changes):
    """Two rows, the second one of a new user."""
    rows = {"user": ["red 0", "new"], "item": ["1", "2"], "genre": ["red", None]}
    history = {"history": ["3|4", ""], "history Film genre": ["blue|", ""]}
    ages = {"history label": ["1|0", ""], "history age": ["0|3600", ""]}
    return pa.table(rows | history | ages | changes)


def test_new_rows(transform):
    """As lists and as texts, of numbers and of texts; an item that is missing takes its entries with it."""
    assert transform.columns[3:] == ["history", "history Film genre", "history label", "history age"]
    genres = transform.vocabularies[2].to_pylist()
    ids = transform(new_rows()).history.reshape(2, 4, LENGTH)
    assert ids[0, 1:].tolist() == [[genres.index("blue"), 0, 0, 0], [2, 1, 0, 0], [1, 13, 0, 0]]
    assert not ids[1].any()
    lists = {
        "history": [["3", None, "4"], None],
        "history Film genre": [["blue", "red", None], []],
        "history label": [[True, False, False], []],
        "history age": [[0.2, 5.0, 3600.0], None],
    }
    np.testing.assert_array_equal(transform(new_rows(**lists)).history, ids.reshape(2, -1))
    one = {"history": ["3", "4"], "history Film genre": ["", "red"], "history label": ["", "1"]}
    ids = transform(new_rows(**one, **{"history age": ["", "7"]})).history.reshape(2, 4, LENGTH)
    assert ids[:, 1:, 0].tolist() == [[0, 0, 0], [genres.index("red"), 2, 4]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"history label": ["1|0", "1"]}, "'1' has 1 entry, and history has 0; give one for each"),
        ({"history age": ["1|0|5", ""]}, r"'1\|0\|5' has 3 entries, and history has 2; give one for each"),
        ({"history label": ["1|2", ""]}, r"'1\|2' has the entry '2', which is neither 0 nor 1, whether"),
        ({"history age": [[1.0, -1.0], []]}, r"has the entry -1.0, which is negative: give the seconds"),
        ({"history age": ["1|soon", ""]}, "has the entry 'soon', which is not a number"),
        ({"history age": [7, None]}, "7 is of type int64, neither a list nor a text with"),
    ],
)
def test_new_rows_that_are_refused(transform, changes, said):
    with pytest.raises(BadValue, match=said) as refused:
        transform(new_rows(**changes))
    assert [refused.value.column] == [*changes]


def test_what_the_item_decides_needs_no_column(tmp_path):
    """A table's fields that are joined by the item are looked up from the history itself."""
    schema = write_log(str(tmp_path / "log"), history=FURTHER)
    (tmp_path / "log" / "items.csv").write_text(
        "item,kind\n" + "".join(f"{i},{'red' if i % 3 else 'blue'}\n" for i in range(29))
    )
    rewrite(schema, "fields:\n", "tables: {items: {data: items.csv, key: item}}\nfields:\n")
    rewrite(schema, "column: genre}", "column: items.kind}")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    rows = rows_of(dataset)
    np.testing.assert_array_equal(rows[dataset.history_columns[LENGTH:]].to_numpy(), further_by_hand(rows))
    transform = RowTransform.of_dataset(dataset)
    assert transform.columns == ["user", "item", "history", "history label", "history age"]
    values = [transform.vocabularies[number].to_pylist() for number in range(3)]
    row = rows.iloc[[-1]]
    items, genres = (
        row[dataset.history_columns].to_numpy()[0, place * LENGTH :][:LENGTH] for place in (0, 1)
    )
    new = {"user": ["new"], "item": ["1"], "history": [[values[1][item] for item in items]]}
    entries = {f"history {name}": [[1] * LENGTH] for name in ("label", "age")}
    ids = transform(pa.table(new | entries)).history[0]
    assert ids[: 2 * LENGTH].tolist() == [*items, *genres]


def test_by_its_command(tmp_path, capsys):
    schema = write_log(str(tmp_path / "log"), history="")
    words = [
        "prepare",
        schema,
        "--out",
        str(tmp_path / "out"),
        "--history",
        "3",
        "--history-of",
        "all",
        *("--history-with", "age", "--history-with", "Film genre"),
        "--json",
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--set", "runtime.use_ray=never"])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["fields"] == 3
    assert Dataset.open(str(tmp_path / "out")).history.further == (2, "age")
